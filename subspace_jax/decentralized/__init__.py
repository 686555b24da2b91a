"""Training without a server: agents with data of their own, who exchange with their neighbours in a graph.

Every method is an `Algorithm` for ONE agent, written against `core.exchange.Comm`; `core.exchange.vmap`, `pmap` and
`shard_map` run it for all.
"""

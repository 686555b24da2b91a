"""What two or more experiments of one kind share: their flags, data, training and figures. One folder per kind.

`classifier`: one image classifier, some of whose labels may be wrong. `task_sequence`: one network that learns tasks in
turn. `agents`: networks trained on data spread over agents in a graph. What a single experiment needs stays in its own
folder; what depends on no method or network is in `experiments.harness`.
"""

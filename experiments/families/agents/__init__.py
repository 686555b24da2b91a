"""Agents on a graph: methods by name, one run of each, figures and pictures."""

from experiments.families.agents import follow, methods, protocol, report

__all__ = ["follow", "methods", "protocol", "report"]

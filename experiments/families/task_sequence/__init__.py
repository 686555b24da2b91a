"""Tasks learned one after the other: the sequence, and what is shown of it."""

from experiments.families.task_sequence import report

__all__ = ["report"]

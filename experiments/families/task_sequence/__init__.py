"""Tasks learned one after the other by one network: the data of the sequence, and what is shown of it."""

from experiments.families.task_sequence import report
from experiments.families.task_sequence.protocol import HEADS, Config, Source, sequence, source

__all__ = ["HEADS", "Config", "Source", "report", "sequence", "source"]

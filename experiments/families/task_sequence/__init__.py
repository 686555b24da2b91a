"""One network that learns tasks in turn, shared by its experiments: flags, data of the sequence, figures and tables."""

from experiments.families.task_sequence import report
from experiments.families.task_sequence.protocol import HEADS, Config, Source, sequence, source

__all__ = ["HEADS", "Config", "Source", "report", "sequence", "source"]

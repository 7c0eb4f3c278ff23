"""Data sets, one user in memory at a time."""

from eval.data.dataset import DataSet, open_data, to_datasets, users
from eval.data.selection import Selection

__all__ = ["DataSet", "Selection", "open_data", "to_datasets", "users"]

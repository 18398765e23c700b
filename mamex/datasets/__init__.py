"""Anything that has users, items and clicks becomes a `Dataset`; every fault is named with its row and its remedy."""
from .core import Dataset, k_core
from .folders import load_dataset, save_dataset
from ..base import UsageError

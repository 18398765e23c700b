"""Fit, rank tomorrow's items, explain, save."""
from .core import Recommender
from . import adding, explaining, fitting, folding, ranking, store, updating  # each gives the class its methods

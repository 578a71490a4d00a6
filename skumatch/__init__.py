"""Retrain, judge, register and audit the model that says which product a shelf photo shows."""

__version__ = "0.1.0"

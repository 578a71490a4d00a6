"""Decisions: whether a challenger beats what serves, and whether a refreshed gallery is fit to serve."""

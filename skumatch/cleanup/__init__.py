"""Deletion from the stores: what no run and no version needs, and pictures that have to be erased."""

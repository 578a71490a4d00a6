"""Judging, packaging, registering and promoting models and galleries, with the record of their lineage."""

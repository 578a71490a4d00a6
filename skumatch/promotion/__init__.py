"""Moves of the alias `champion`, and versions that wait for an approval or a judgement."""

"""Benchmarks of time and memory, as ratios against a ceiling or a peer in the same run."""

"""The stages of dvc.yaml, a module each, and the names of the files that they read and write."""

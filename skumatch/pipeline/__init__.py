"""A run: its input set, workspace, tasks and claims; data versions and their record; DVC."""

"""Deliveries, data versions and their changes, validation, duplicates, split and protocols."""

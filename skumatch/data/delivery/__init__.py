"""From an archive or a folder that a supplier delivers to a data version."""

"""The import of a supplier's archive or folder as a data version."""

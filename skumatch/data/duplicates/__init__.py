"""The search for duplicates among the pictures of a data version."""

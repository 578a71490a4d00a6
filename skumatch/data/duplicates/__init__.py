"""Which pictures of a data version are copies of one another."""

"""The validation of a data version with Great Expectations, and its pages for people."""

"""Great Expectations over a data version: what must hold, and what a person is shown."""

"""Reading of params.yaml: parameters, overrides, and the sentences for wrong values."""

"""The page of a run, and its model card: from the stages' results to what a person reads."""

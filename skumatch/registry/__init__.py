"""MLflow: registered versions, runs, aliases, the journal of promotions, and a bundle as an MLflow model."""

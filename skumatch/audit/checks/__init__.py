"""The checks of an audit, one per link of the chain; each is a function of the dossier alone."""

"""What an audit looks at, link by link; each check is a function of the dossier alone."""

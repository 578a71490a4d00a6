"""Health checks of an installation: one check per part, each with a finding and a remedy."""

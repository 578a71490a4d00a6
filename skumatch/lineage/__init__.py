"""Records of what made a version: lineage, provenance, bill of materials, and events for OpenLineage."""

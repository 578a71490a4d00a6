"""An audit: a version's dossier, the checks of its chain, questions, `reproduce`, and pages."""

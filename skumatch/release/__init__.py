"""What may become the champion, and how: gate, bundle, registry, lineage, report."""

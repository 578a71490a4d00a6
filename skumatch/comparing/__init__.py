"""Compare encoders on one folder under one protocol: figures, paired differences, table, page."""

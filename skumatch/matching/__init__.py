"""Many pictures at once: what is to be matched, resumable matching into a table, and a page to look at."""

"""Match many pictures at once: read the inputs, match resumably into a table, render a page of matches."""

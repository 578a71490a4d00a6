"""Search a gallery exactly, and measure how often the right SKU comes first, with intervals."""

"""Embed images, search a gallery exactly, and say how often the right SKU comes first, with honest intervals."""

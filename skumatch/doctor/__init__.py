"""Is everything well? One check a part of the installation; each says what it found, and how to mend it."""

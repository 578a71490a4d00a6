"""`python -m skumatch`."""

from skumatch.cli import main

main()

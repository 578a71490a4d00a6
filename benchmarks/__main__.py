"""`python -m benchmarks`: names all packages that are missing before it imports the first of them."""

from __future__ import annotations

from benchmarks.packages import check_packages

if __name__ == "__main__":
    check_packages()
    from benchmarks.commands import main

    main()

"""`python -m loadtests.resilience`."""

import sys

from loadtests.resilience.cli import main

if __name__ == "__main__":
    sys.exit(main())

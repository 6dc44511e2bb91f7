"""`python -m loadtests.chaos`."""

import sys

from loadtests.chaos.cli import main

if __name__ == "__main__":
    sys.exit(main())

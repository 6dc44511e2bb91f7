"""`python -m loadtests.rollouts`."""

import sys

from loadtests.rollouts.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""`python -m loadtests.alerts`."""

import sys

from loadtests.alerts.cli import main

if __name__ == "__main__":
    sys.exit(main())

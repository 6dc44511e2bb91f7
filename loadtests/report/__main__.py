"""`python -m loadtests.report`."""

import sys

from loadtests.report.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""`python -m loadtests.users PLAN`."""

import sys

from loadtests.users.program import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

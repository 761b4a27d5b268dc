"""Run a command of the project: `python -m tuning COMMAND ...`."""

import sys

from tuning.cli.app import main

if __name__ == "__main__":
    sys.exit(main())

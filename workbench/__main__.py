"""`python -m workbench`: the command line, see cli.py."""

import logging

from workbench.cli import leave, main

if __name__ == "__main__":
    logging.captureWarnings(True)
    leave(main())

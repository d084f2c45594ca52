"""`python -m workbench`: the command line, see cli/."""

import logging

from workbench.cli.main import leave, main

if __name__ == "__main__":
    logging.captureWarnings(True)
    leave(main())

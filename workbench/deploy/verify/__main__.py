"""Check the run in which this folder lies, or another: `python RUN/verify [FOLDER]`."""

import importlib
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent

sys.dont_write_bytecode = True  # what was sealed stays as it is
sys.path[0] = str(HERE.parent)
verify = importlib.import_module(f"{HERE.name}.findings").verify
outcome = verify(sys.argv[1] if len(sys.argv) > 1 else HERE.parent)
sys.stdout.write(outcome.text + "\n")
sys.exit(0 if outcome.passed else 1)

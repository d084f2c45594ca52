"""Derive the numbers of a run or bundle again, from its sealed files alone; name what is left.

Needs LiteRT and NumPy, nothing else of the workbench, and is written apart from what it checks: a
copy of this folder lies in every bundle. `python RUN/verify` and `python -m workbench verify RUN`
run it. `findings` lists the checks, `names` the files; each artefact has a module that derives it.
"""

from .answers import (
    FAINTEST,
    decide,
    in_floats,
    level_probability,
    needed,
    pool,
    probabilities,
    probability_thresholds,
    shown_probabilities,
)
from .arithmetic import sigmoid
from .findings import BUNDLE_CHECKS, CHECKS, verify
from .folder import Bundle
from .model import Interpreter, input_table, open_model, pooled_vector, run_model
from .names import *
from .pixels import letterbox, read_ppm
from .seals import sealed_files

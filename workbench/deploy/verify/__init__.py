"""Derive the numbers of a run or bundle again, from its sealed files alone; name what is left.

Needs LiteRT and NumPy, nothing else of the workbench, and is written apart from what it checks: a
copy of this folder lies in every bundle. `python RUN/verify` and `python -m workbench verify RUN`
run it. Begin to read in `findings`, which lists the checks; `folder` names the files.
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
from .folder import (
    CALIBRATION,
    CONFIG,
    CURVE,
    INDEX,
    LABELS,
    METADATA,
    METRICS,
    MODEL,
    MODELS,
    PAGE_06,
    PAGE_09,
    PARITY,
    PARITY_SCORES,
    RECOMMENDATION,
    RUN,
    SCORES,
    SETTINGS,
    STUDENT,
    SUMS,
    VALIDATION,
    VECTORS,
    Bundle,
)
from .model import Interpreter, input_table, open_model, pooled_vector, run_model
from .pixels import letterbox, read_ppm
from .seals import sealed_files

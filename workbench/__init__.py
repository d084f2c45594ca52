"""The workbench: from a folder of photos to a phone-ready INT8 classifier.

This file is the one door to legacy Keras. TensorFlow reads these variables when it is first
imported, so they are set here, before any room can import it. Nothing else happens on import.
"""

import os
import sys

__version__ = "0.1.0"

if "tensorflow" in sys.modules and os.environ.get("TF_USE_LEGACY_KERAS") != "1":
    raise ImportError(
        "TensorFlow was imported before workbench, so it runs Keras 3, which the quantisation "
        "toolkit refuses. Restart the kernel and import workbench first."
    )
os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # the C++ start-up lines say nothing to a user
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

"""The workbench: from a folder of photos to a phone-ready INT8 classifier.

It selects legacy Keras: TensorFlow reads these variables when it is first imported, so they are
set here, before any module can import it. Nothing is loaded.
"""

import os
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import PathFinder

__version__ = "0.1.0"


class _QuietTensorFlow(MetaPathFinder, Loader):
    """Import TensorFlow with the process's stderr aside: no setting quiets its C++ lines.

    What goes wrong in Python is raised as ever.
    """

    def find_spec(self, name, path, target=None):
        if name != "tensorflow":
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None:
            self.inner, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec):
        return self.inner.create_module(spec)

    def exec_module(self, module):
        kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        try:
            self.inner.exec_module(module)
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)


if "tensorflow" in sys.modules and os.environ.get("TF_USE_LEGACY_KERAS") != "1":
    raise ImportError(
        "TensorFlow was imported before workbench, so it runs Keras 3, which the quantisation "
        "toolkit refuses. Restart the kernel and import workbench first."
    )
os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # later C++ lines: errors only
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
if "tensorflow" not in sys.modules:
    sys.meta_path.insert(0, _QuietTensorFlow())

"""How much memory this very process took: `ru_maxrss` of a child begins at what its parent took."""

import resource
from pathlib import Path


def peak_kilobytes() -> int:
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(next(line.split()[1] for line in status.open() if line.startswith("VmHWM")))

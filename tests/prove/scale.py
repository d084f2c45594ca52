"""How do time, memory and disk grow with the photos? 01 and 02 on drawn datasets of several sizes.

Photos are tiny (32 x 24 pixels, each another), so that what is timed is all that is not decoding;
a photo's own decoding comes on top, and is proportional (`benchmark audit`). Every size is drawn,
read, audited and written in a process of its own; its seconds of computing and its largest memory
count. Sizes that the machine does not hold are computed from the two largest that were measured.

    python -m tests.prove scale sizes=1000,10000,100000 upto=10000000
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from workbench.data.audit.facts import RECORD_BYTES
from workbench.data.audit.report import audit_dataset, write_audit
from workbench.data.decode import count_cores, map_in_order
from workbench.data.layouts import stamp_dataset
from workbench.data.tables import load_dataset, read_dataset, write_dataset
from workbench.data.views import Purpose, random_stream
from workbench.settings import Settings

WIDTH, HEIGHT = 32, 24
A_FOLDER = 1000  # photos in each
CLASSES = 20
SPLITS = ("train",) * 8 + ("val", "test")
STAGES = ("read", "audit", "write", "stamp", "load", "epoch")
TOLD = {"read": "01 reads the tables", "audit": "01 audits", "write": "01 writes",
        "stamp": "up to date?", "load": "02 to 09 read", "epoch": "an epoch's order"}  # fmt: skip


def run(*, sizes: str | int = "1000,10000,100000", upto: int = 10_000_000) -> dict[str, Any]:
    rows = [_measure(int(size)) for size in str(sizes).split(",")]
    return {"rows": rows + _beyond(rows, upto)}


def table(figures: dict[str, Any]) -> str:
    """Write the figures as the table of the README."""
    lines = ["| photos (CPU time) | " + " | ".join(TOLD.values()) + " | memory | on disk |",
             "|" + "---:|" * (len(TOLD) + 3)]  # fmt: skip
    for row in figures["rows"]:
        seconds = [_short(row[stage]) for stage in STAGES]
        count = f"{row['images']:,}{'' if row['measured'] else ' (computed)'}"
        sizes = [f"{row[key] / 1e9:.1f} GB" for key in ("memory", "disk")]
        lines.append(f"| {' | '.join([count, *seconds, *sizes])} |")
    return "\n".join(lines)


def _short(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds / 60:.1f} min"


def _measure(count: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="workbench_scale_") as name:
        draw(Path(name, "data"), count)
        command = [sys.executable, "-m", "tests.prove.scale", name]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        return json.loads(done.stdout) | {"images": count, "measured": True}


def draw(folder: Path, count: int) -> None:
    """Draw `count` photos, all different, a thousand to a folder, with tables of their labels."""
    for number in range(-(-count // A_FOLDER)):
        (folder / f"images/{number:05d}").mkdir(parents=True)

    def photos(start: int) -> None:
        for number in range(start, min(start + A_FOLDER, count)):
            rng = random_stream(Purpose.DRAW, 0, number)
            soft = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
            photo = cv2.resize(soft, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
            data = cv2.imencode(".jpg", photo)[1]
            (folder / "images" / _name(number)).write_bytes(data.tobytes())

    for _ in map_in_order(photos, range(0, count, A_FOLDER), count_cores()):
        pass
    tables = {split: ["filepath,labels"] for split in SPLITS}
    for number in range(count):
        names = f"k{number % CLASSES:02d}|k{number * 7 % (CLASSES - 1):02d}"
        names = names if number % CLASSES != number * 7 % (CLASSES - 1) else names[:3]
        tables[SPLITS[number % len(SPLITS)]].append(f"{_name(number)},{names}")
    for split, lines in tables.items():
        (folder / f"{split}_labels.csv").write_text("\n".join([*lines, ""]))


def _name(number: int) -> str:
    return f"{number // A_FOLDER:05d}/{number:08d}.jpg"


def stages(root: Path) -> dict[str, Any]:
    """Do what 01 and 02 do, one thing after the other; give CPU seconds, and bytes at most."""
    folder, out, settings = root / "data", root / "run", Settings(num_classes="auto")
    seconds: dict[str, float] = {}

    def timed(stage: str, work: Callable[[], Any]) -> Any:
        started = time.process_time()
        result = work()
        seconds[stage] = time.process_time() - started
        return result

    dataset = timed("read", lambda: read_dataset(folder, settings))
    audit = timed("audit", lambda: audit_dataset(dataset, settings))
    timed("write", lambda: (
        write_audit(audit, out),
        write_dataset(audit.dataset, out, root, task="multilabel", sha256=audit.sha256),
    ))  # fmt: skip
    timed("stamp", lambda: stamp_dataset(folder))
    loaded = timed("load", lambda: load_dataset(out, root))
    before_tensorflow = _memory()
    from workbench.data.pipeline import epoch_places

    timed("epoch", lambda: epoch_places(loaded.split("train"), settings, 0))
    written = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    return seconds | {
        "memory": before_tensorflow,
        "disk": written + RECORD_BYTES * len(dataset.rows),
    }


def _memory() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _beyond(rows: list[dict[str, Any]], upto: int) -> list[dict[str, Any]]:
    """Continue the line through the two largest sizes, ten times at a time."""
    if len(rows) < 2:
        return []
    one, two = rows[-2:]
    found = []
    while (count := two["images"] * 10 ** (len(found) + 1)) <= upto:
        more = (count - two["images"]) / (two["images"] - one["images"])
        keys = (*STAGES, "memory", "disk")
        values = {key: two[key] + max(0, two[key] - one[key]) * more for key in keys}
        found.append(values | {"images": count, "measured": False})
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(stages(Path(sys.argv[1]))) + os.linesep)

"""Does a test fail when a guard is gone? Each guard is broken in a copy, one at a time.

python -m tests.prove guards
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
COPIED = ("workbench", "tests", "parameters", "notebooks", "docker", "pyproject.toml")


class Guard(NamedTuple):
    against: str
    file: str
    text: str  # as it stands there, once
    broken: str
    test: str  # the file of tests, and which of them, as pytest's -k takes it


GUARDS = (
    Guard("a path with ..", "files.py", 'if ".." in PurePosixPath(relative).parts:', "if False:",
          "test_tables.py -k could_leave"),
    Guard("a link out of the photos", "files.py",
          "if not joined.resolve().is_relative_to(Path(root).resolve()):", "if False:",
          "test_files.py -k link_out"),
    Guard("a link or pipe in a run folder", "files.py",
          "if leads_out or not (path.is_symlink() or path.is_file() or path.is_dir()):",
          "if False:",
          "test_untrusted_run.py -k secret"),
    Guard("a decompression bomb", "data/decode.py", "if width * height > dataset.max_pixels:",
          "if False:", "test_decode.py -k bomb"),
    Guard("a JPEG of thousands of scans", "data/decode.py",
          "if 1 + sum(1 for _ in islice(scans, most)) > most:", "if False:",
          "test_decode.py -k thousands_of_scans"),
    Guard("a YAML alias", "parameters.py", 'if kind == "AliasEvent":', "if False:",
          "test_parameters.py -k wrong_value"),
    Guard("a pickle in an npz", "nets/weights.py", "allow_pickle=False", "allow_pickle=True",
          "test_weights.py -k pickle"),
    Guard("a formula in a table", "data/cells.py",
          'return f"\'{cell}" if cell.lstrip("\'").startswith(SPREADSHEET_TRIGGERS) else cell',
          "return cell", "test_tables.py -k formula"),
    Guard("an edited file of a run", "deploy/verify/seals.py",
          "wrong = [name for stated, _, name in lines if bundle.sha256(name) != stated]",
          "wrong = []", "test_verify.py -k any_changed_file"),
    Guard("a second process on a run", "lock.py",
          "fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)", "pass", "test_lock.py -k second"),
    Guard("a script in a page", "show/page.py", "script-src {hashes}",
          "script-src 'unsafe-inline'", "test_report.py test_predict.py -k page"),
)  # fmt: skip


def run(*, only: int | None = None) -> dict[str, Any]:
    """Break the guards, all or that of one place in the list, and look whether a test fails."""
    found = [_broken(guard) for guard in (GUARDS if only is None else [GUARDS[only]])]
    return {"guards": found}


def table(figures: dict[str, Any]) -> str:
    noticed = [row["against"] for row in figures["guards"] if row["noticed"]]
    missed = [row["against"] for row in figures["guards"] if not row["noticed"]]
    words = f"{len(noticed)} of {len(figures['guards'])} broken guards are noticed"
    return f"{words}; not: {', '.join(missed)}" if missed else words


def _broken(guard: Guard) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="workbench_guards_") as name:
        copy = Path(name)
        for part in COPIED:
            copied = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
            copied(ROOT / part, copy / part)
        before = _failed(copy, guard.test)
        path = copy / "workbench" / guard.file
        text = path.read_text(encoding="utf-8")
        if text.count(guard.text) != 1:
            raise RuntimeError(f"{guard.file} holds {guard.text!r} {text.count(guard.text)} times")
        path.write_text(text.replace(guard.text, guard.broken), encoding="utf-8")
        after = _failed(copy, guard.test)
    sys.stderr.write(f"{guard.against}: {before} failed, without the guard {after}\n")
    return {"against": guard.against, "noticed": not before and after > 0}


def _failed(copy: Path, test: str) -> int:
    """Count the tests that fail; a run without any test is a mistake of the list above."""
    files, _, choice = test.partition(" -k ")
    words = [sys.executable, "-m", "pytest", "-p", "no:warnings", "-k", choice,
             *(f"tests/{file}" for file in files.split())]  # fmt: skip
    done = subprocess.run(words, cwd=copy, capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": str(copy)})  # fmt: skip
    if done.returncode not in (0, 1):
        raise RuntimeError(done.stdout[-1000:] + done.stderr[-1000:])
    last = done.stdout.strip().splitlines()[-1]
    return int(last.split(" failed")[0].split()[-1]) if " failed" in last else 0

"""Is every file the one that was sealed, and what is sealed without being derived?"""

from __future__ import annotations

from pathlib import Path

from .agreement import MismatchError
from .folder import Bundle
from .names import METRICS, REVIEW, SUMS

SEALED = (  # all that is handed on, and all that figures are derived from
    *("*.tflite", "*.onnx", "*.pt", "*.txt", "*.json", "*.csv", "*.npz", "*.png", "*.jpg"),
    *("app/**/*", "golden/**/*", "verify/**/*", "verify.py"),
    *("html/**/*", "notebooks/*.ipynb", "logs/*.csv", "splits/**/*"),
)
VERDICTS = ("ready", "with care", "not ready")
SEALED_ONLY = ("audit.csv", "audit.json", "logs")
UNSEALED = ("status.json", "threshold_choice.json", REVIEW)  # change beside what was computed


def hashes(bundle: Bundle) -> str:
    """Compare every file with SHA256SUMS, which must list all of them."""
    if not (bundle.has(SUMS) or bundle.has(METRICS)):
        return f"not here: no {SUMS}, a run is sealed when all its steps are up to date"
    lines = [line.partition("  ") for line in bundle.bytes(SUMS).decode("utf-8").splitlines()]
    wrong = [name for stated, _, name in lines if bundle.sha256(name) != stated]
    if wrong:
        raise MismatchError(f"changed since they were written: {', '.join(wrong)}")
    missing = sorted(set(sealed_files(bundle.folder)) - {name for _, _, name in lines})
    if missing:
        raise MismatchError(f"{SUMS} does not list {', '.join(missing)}")
    return f"{len(lines)} files are as they were written; {SUMS} has sha256 {bundle.sha256(SUMS)}"


def sealed_files(folder: Path) -> list[str]:
    """Name the files of a run or bundle that are there and must not change, in order."""
    found = {path for pattern in SEALED for path in folder.glob(pattern) if path.is_file()}
    names = sorted(path.relative_to(folder).as_posix() for path in found)
    return [name for name in names if name not in UNSEALED and not _is_passing(name)]


def _is_passing(name: str) -> bool:
    """Tell what Python, a file system or an unfinished write left."""
    return any(part.startswith(".") or part == "__pycache__" for part in name.split("/"))


def signed(bundle: Bundle) -> str:
    """Compare what a reviewer signed with what lies here now."""
    if not bundle.has(REVIEW):
        return "not here: nobody signed"
    review = bundle.json(REVIEW)
    who, verdict, reviewed = (review[key] for key in ("name", "verdict", "reviewed"))
    if verdict not in VERDICTS or SUMS not in reviewed:
        raise MismatchError(f"{REVIEW} is no verdict on a sealed run: {verdict!r}")
    changed = [name for name, stated in reviewed.items()
               if not bundle.has(name) or bundle.sha256(name) != stated]  # fmt: skip
    if changed:
        raise MismatchError(
            f"changed since {who!r} signed: {', '.join(changed)}. Look again, then sign again or "
            f"delete {REVIEW}"
        )
    return f"{who!r} says {verdict!r} of these {len(reviewed)} files, {review['when'][:10]}"


def sealed_only(bundle: Bundle) -> str:
    """Name what is shown and cannot be derived here: its bytes are sealed, no more."""
    names = [name for name in SEALED_ONLY if bundle.has(name)]
    return f"not derived: {', '.join((*names, 'what is drawn as a picture'))}"

"""A folder that is checked: reads its files and keeps within it."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import struct
import zipfile
import zlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .agreement import MismatchError
from .answers import in_floats, pooled
from .arithmetic import Arrays, Tree
from .names import CONFIG, SETTINGS, TEACHER_SCORES, VALIDATION
from .search import Search

MALFORMED = (  # what a file raises that is not of the form we wrote
    *(ArithmeticError, AttributeError, EOFError, LookupError, OSError, RuntimeError),
    *(SyntaxError, TypeError, ValueError, struct.error, zipfile.BadZipFile, zlib.error),
    MismatchError,
)


@dataclass
class Bundle:
    """The files of a folder, read once."""

    folder: Path
    config: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.config = self.json(CONFIG)

    @cached_property
    def settings(self) -> Tree:
        return self.json(SETTINGS)

    @cached_property
    def validation(self) -> Arrays:
        """What the product answered on validation, and what is true.

        Float logits are put on 256 levels that cover them and 0.
        """
        arrays = self.arrays(self.source)
        if "raw" in arrays:
            return arrays
        logits = arrays["logits"].astype(np.float64)
        low, high = min(logits.min(), 0.0), max(logits.max(), 0.0)
        scale = np.float64(max(high - low, 1e-3) / 255)
        zero_point = np.rint(-128 - low / scale).astype(int)
        raw = np.clip(np.rint(logits / scale) + zero_point, -128, 127).astype(np.int8)
        return arrays | {"raw": raw, "scale": scale, "zero_point": zero_point}

    @property
    def source(self) -> str:
        """Name the answers to validation images on which thresholds were searched."""
        return TEACHER_SCORES if in_floats(self.config) else VALIDATION

    @cached_property
    def search(self) -> Search:
        return Search.of(self.validation, self.settings["threshold_search"], self.settings["seed"])

    def bytes(self, name: str) -> bytes:
        path = (self.folder / name).resolve()
        if not path.is_relative_to(self.folder.resolve()):
            raise MismatchError(f"{name} leads out of the folder")
        if not path.is_file():
            raise MismatchError(f"{name} cannot be read: it is not there or no file")
        return path.read_bytes()

    def json(self, name: str) -> Any:
        try:
            return json.loads(self.bytes(name))
        except ValueError as error:
            raise MismatchError(f"{name} is not valid JSON ({error})") from None

    def arrays(self, name: str) -> Arrays:
        """Read scores, a row a photo or, where the config says so, a row a clip."""
        arrays = self.frames(name)
        return pooled(arrays) if self.config.get("aggregation") else arrays

    def frames(self, name: str) -> Arrays:
        with np.load(io.BytesIO(self.bytes(name)), allow_pickle=False) as held:
            return {key: held[key] for key in held.files}

    def table(self, name: str) -> Tree:
        """Read a CSV by column; what is empty is None."""
        rows = csv.DictReader(io.StringIO(self.bytes(name).decode("utf-8")))
        words = {"": None, "True": True, "False": False}
        columns: Tree = {key: [] for key in rows.fieldnames or ()}
        for row in rows:
            for key, text in row.items():
                columns[key].append(words[text] if text in words else float(text))
        return columns

    def has(self, name: str) -> bool:
        return (self.folder / name).exists()

    def sha256(self, name: str) -> str:
        return hashlib.sha256(self.bytes(name)).hexdigest()

    def model(self) -> bytes:
        """Return the model if it is the one described; the runtime trusts what it is given."""
        stated = self.config["model"]
        model = self.bytes(stated["file"])
        found = hashlib.sha256(model).hexdigest()
        if found != stated["sha256"]:
            raise MismatchError(
                f"{stated['file']} has sha256 {found[:12]}…, {CONFIG} says "
                f"{stated['sha256'][:12]}…: the model was changed or damaged"
            )
        return model

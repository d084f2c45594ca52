"""What an app says of photos: the answers of the file that ships, of a run or of a bare bundle.

Photos are decoded and letterboxed as everywhere here; decisions and percentages are read by the
bundle's own reader (`deploy.verify`), so they are the app's to the bit. Trains nothing, opens no
label table, and holds one row of integers a photo, however many there are.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from workbench.artifacts import InferenceConfig
from workbench.data.cells import csv_text
from workbench.data.decode import count_cores, decode_image, map_in_order
from workbench.data.layouts import SUFFIXES, walk_files
from workbench.data.letterbox import letterbox
from workbench.deploy import flatbuffer, tflite, verify
from workbench.errors import DatasetError, InputError, printable
from workbench.files import check_folder, is_plain_file, safe_join, sha256
from workbench.settings import DatasetSettings

log = logging.getLogger(__name__)


class Answer(NamedTuple):
    """What the model file gives for one photo."""

    raw: np.ndarray  # [C], of the output's type
    features: np.ndarray | None  # float16 [F], what its last layer reads, on a scale of its own


def _feature(interpreter: Any, port: dict[str, Any]) -> np.ndarray:
    """Read the second output; integers become their distance from zero, which float16 holds."""
    values, zero = interpreter.get_tensor(port["index"])[0], port["quantization"][1]
    return (values.astype(np.float32) - zero).astype(np.float16)


class Classifier:
    """The model file of a folder with the description that an app reads.

    The folder may be somebody else's: nothing in it leads out, and the file is the one described.
    """

    def __init__(self, folder: Path, *, features: bool = False) -> None:
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder. Give that of a run or of its bundle")
        check_folder(folder)
        described = InferenceConfig.read(folder)
        self.folder, self.config = folder, described.to_json()
        path = safe_join(folder, described.model.file)
        if not is_plain_file(path) or sha256(path) != described.model.sha256:
            raise InputError(
                f"{path} is not the file that {verify.CONFIG} describes. Run 07 and 08 again, or "
                "take the whole bundle"
            )
        model = path.read_bytes()
        self._model = flatbuffer.with_features(model) if features else model
        self._check_ports(model)
        self._table = verify.input_table(self.config["input"])
        self._dataset = DatasetSettings(exif=described.preprocessing.exif)
        self._own = threading.local()  # an interpreter a thread: it computes one image at a time
        self._opening = threading.Lock()  # hushing the runtime moves the process's own streams

    def _check_ports(self, model: bytes) -> None:
        """Refuse a file whose input or output is not what the description says."""
        given, found = self.config["input"], tflite.input_port(model)
        wanted = (1, given["height"], given["width"], given["channels"])
        output = tflite.output_port(model)
        named = (1, len(self.config["labels"]))
        types = (given["dtype"], self.config["output"]["dtype"])
        if (found.shape, output.shape) != (wanted, named) or (found.dtype, output.dtype) != types:
            raise InputError(
                f"{self.config['model']['file']} takes {found.dtype} {list(found.shape)} and gives "
                f"{output.dtype} {list(output.shape)}; {verify.CONFIG} says {types[0]} "
                f"{list(wanted)} and {types[1]} {list(named)}. Run 07 and 08 again"
            )

    def __call__(self, pixels: np.ndarray) -> Answer:
        """Answer RGB pixels [H, W, 3]."""
        return self.answer_square(letterbox(pixels, self.config["input"]["width"]))

    def answer_square(self, square: np.ndarray) -> Answer:
        """Answer pixels that are letterboxed already."""
        if not hasattr(self._own, "bound"):
            self._own.bound = self._bind()
        interpreter, source, target, *more = self._own.bound
        interpreter.set_tensor(source["index"], self._table[square][None])
        interpreter.invoke()
        raw = interpreter.get_tensor(target["index"])[0].copy()
        return Answer(raw, _feature(interpreter, more[0]) if more else None)

    def _bind(self) -> tuple[Any, ...]:
        """Open the file for this thread; asking for its ports each time takes a tenth longer."""
        with self._opening:
            interpreter = tflite.open_model(self._model)
        return (interpreter, *interpreter.get_input_details(), *interpreter.get_output_details())

    def read(self, path: Path) -> np.ndarray:
        """Decode a photo as training did."""
        return decode_image(path, self._dataset)

    def _answer_file(self, path: Path) -> Answer | str:
        """Answer a photo, or say why it cannot be read."""
        try:
            pixels = self.read(path)
        except DatasetError as error:
            return str(error).removeprefix(f"{path} ")
        return self(pixels)

    def answers(self, photos: Photos, title: str = "photos") -> Answers:
        """Answer every photo, on all cores and with a bar; what cannot be read is kept with why."""
        raw, features, names, unread = [], [], [], {}
        answered = map_in_order(self._answer_file, photos.paths, count_cores())
        bar = tqdm(answered, title, len(photos.paths), leave=False, mininterval=1, disable=None)
        for name, one in zip(photos.names, bar, strict=True):
            if isinstance(one, str):
                unread[name] = one
                continue
            names.append(name)
            raw.append(one.raw)
            features.append(one.features)
        shape = (0, len(self.config["labels"]))
        rows = np.stack(raw) if raw else np.zeros(shape, self.config["output"]["dtype"])
        kept = np.stack(features) if features and features[0] is not None else None
        return Answers(self.config, photos.folder, tuple(names), rows, unread, kept)


@dataclass(frozen=True)
class Photos:
    """Photos of a folder; names are relative to it."""

    folder: Path
    names: tuple[str, ...]

    @property
    def paths(self) -> list[Path]:
        return [self.folder / name for name in self.names]


def find_photos(place: Path) -> Photos:
    """List one photo, or those of a folder at any depth; what is no photo is counted."""
    if place.is_file():
        return Photos(place.parent, (place.name,))
    if not place.is_dir():
        raise InputError(f"{place} does not exist. Give a photo or a folder of photos")
    found, others = [], Counter()
    for path in walk_files(place):
        if path.suffix.lower() in SUFFIXES:
            found.append(path.relative_to(place).as_posix())
        else:
            others[path.suffix.lower() or "no suffix"] += 1
    if others:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common())
        log.info("%s: files that are no photos are left out: %s", place, kinds)
    if not found:
        raise InputError(f"{place} holds no photo ({', '.join(sorted(SUFFIXES))}). Name another")
    return Photos(place, tuple(found))


@dataclass(frozen=True)
class Answers:
    """What the file that ships says of photos; a row each, of those that could be read."""

    config: dict[str, Any]
    folder: Path  # the one that names are relative to
    names: tuple[str, ...]
    raw: np.ndarray  # [N, C]
    unread: dict[str, str] = field(default_factory=dict)  # why, by name
    features: np.ndarray | None = None  # [N, F]

    @property
    def labels(self) -> list[str]:
        return self.config["labels"]

    @property
    def single(self) -> bool:
        return self.config["task"] == "single_label"

    @cached_property
    def decisions(self) -> list[list[str]]:
        """The labels that the app shows, photo by photo."""
        return verify.decide(self.raw, self.config)

    @cached_property
    def shown(self) -> np.ndarray:
        """The percentages that the app shows, calibrated where that ships. [N, C]"""
        return verify.shown_probabilities(self.raw, self.config)

    @cached_property
    def bars(self) -> np.ndarray:
        """From which shown percentage on a class is said [C]; for a single label, how sure [1]."""
        if self.single:
            return np.array([self.config["thresholds"]["unknown_below"]])
        half = 0 if verify.in_floats(self.config) else 0.5  # between two levels
        needed = np.array(verify.needed(self.config), np.float64) - half
        with np.errstate(over="ignore"):
            return verify.shown_probabilities(needed[None], self.config)[0]

    @cached_property
    def confidence(self) -> np.ndarray:
        """How sure the network is of its best class: what "unknown" is decided by. [N]"""
        return verify.probabilities(self.raw, self.config).max(1, initial=0)

    @cached_property
    def distance(self) -> np.ndarray:
        """How far from the threshold, in shown percentages; above 0 is said. [N, C]

        For a single label all but the best class are as far as they are from the best.
        """
        if not self.single:
            return self.shown - self.bars
        score = verify.probabilities(self.raw, self.config)
        best = np.arange(len(self.labels)) == score.argmax(1)[:, None]
        return np.where(best, score - self.bars, score - self.confidence[:, None])

    @cached_property
    def nearest(self) -> np.ndarray:
        """The class whose answer would change first. [N]"""
        return self.distance.argmax(1) if self.single else np.abs(self.distance).argmin(1)

    def why_none(self, row: int) -> str:
        """Say why no class is said of a photo."""
        score = self.shown[row]
        first, *others = np.argsort(-score, kind="stable")[:2]
        best = f"{self.labels[first]} {score[first]:.0%}"
        if not self.single:
            first = self.distance[row].argmax()
            return (f"nearest {self.labels[first]} {score[first]:.0%}, "
                    f"yes from {self.bars[first]:.0%}")  # fmt: skip
        then = "".join(f", {self.labels[one]} {score[one]:.0%}" for one in others)
        sure = f"{self.confidence[row]:.0%} sure, an answer needs {self.bars[0]:.0%}"
        return f"{best}{then}; {sure}"

    def words(self, row: int) -> str:
        """Say the answer to a photo in one line."""
        said = self.decisions[row]
        if said:
            places = [self.labels.index(name) for name in said]
            return ", ".join(f"{self.labels[one]} {self.shown[row, one]:.0%}" for one in places)
        return f"{'unknown' if self.single else 'none of the classes'} ({self.why_none(row)})"

    def to_json(self) -> dict[str, Any]:
        """Return every answer as plain values."""
        photos = [
            {
                "photo": printable(name), "decisions": self.decisions[row],
                "raw": self.raw[row].tolist(),
                "probability": dict(zip(self.labels, self.shown[row].tolist(), strict=True)),
                "distance": dict(zip(self.labels, self.distance[row].tolist(), strict=True)),
                "why_none": None if self.decisions[row] else self.why_none(row),
            }
            for row, name in enumerate(self.names)
        ]  # fmt: skip
        return {
            "model": self.config["model"], "task": self.config["task"],
            "photos": photos,
            "unread": {printable(name): why for name, why in self.unread.items()},
        }  # fmt: skip

    def csv(self) -> str:
        """Return a row a photo: its labels, the class nearest to its threshold, every class."""
        per_class = [
            f"{what} {name}" for name in self.labels for what in ("probability", "distance")
        ]
        return csv_text(
            ["filepath", "labels", "why none", "nearest", *per_class, "error"], self._rows()
        )

    def _rows(self) -> Iterator[list[Any]]:
        numbers = np.stack([self.shown, self.distance], axis=2).reshape(len(self.names), -1)
        for row, name in enumerate(self.names):
            said = self.decisions[row]
            why = "" if said else self.why_none(row)
            cells = numbers[row].round(4).tolist()
            yield [printable(name), "|".join(said), why, self.labels[self.nearest[row]], *cells, ""]
        for name, why in self.unread.items():
            yield [printable(name), "", "", "", *[""] * 2 * len(self.labels), why]

    def counts(self) -> list[tuple[str, int]]:
        """Count how often each class was said, and how often none."""
        said = Counter(name for names in self.decisions for name in names)
        none = sum(not names for names in self.decisions)
        title = "unknown" if self.single else "none of the classes"
        return [*((name, said[name]) for name in self.labels), (title, none)]

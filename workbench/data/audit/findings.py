"""What an audit may find: the kinds, how grave they are, and the table they go into.

Facts come in, findings go out; nothing here opens an image. Findings of an image name it; those
of a class or a split leave the image empty and say whom they mean in the detail.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np
import pandas as pd

from workbench.data.audit.duplicates import Duplicates, disputed_labels, groups_of
from workbench.data.audit.facts import CONSTANT_RANGE
from workbench.data.audit.labels import LabelStatistics
from workbench.data.layouts import SPLITS, UNLABELED
from workbench.data.tables import Dataset, has_one_label, number_groups
from workbench.settings import AuditSettings, DatasetSettings, Settings

COLUMNS = ("image", "split", "kind", "severity", "detail")
Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")


# In the order in which a person should look at them; what each means stands in its details.
KINDS: dict[str, Severity] = dict.fromkeys(
    ("unreadable", "truncated", "leak", "conflicting_labels", "class_missing"), "error"
)
KINDS |= dict.fromkeys((
    "one_label", "corrupt", "exact_duplicate", "near_duplicate", "class_too_small",
    "class_always_on", "split_drift", "imbalance", "constant", "tiny", "dark", "bright", "blurred",
    "letterbox_waste", "exif_location",
), "warning")  # fmt: skip
KINDS |= dict.fromkeys((
    "exif_rotated", "animated", "cmyk", "sixteen_bit", "transparent", "wrong_suffix", "odd_size",
    "below_input", "no_labels", "common",
), "info")  # fmt: skip
ORDER = {kind: place for place, kind in enumerate(KINDS)}
REMEDIES = {  # of what may be an error
    "unreadable": "mend or remove the file, or set dataset.on_bad_image: quarantine",
    "truncated": "copy the file again or remove it, or set dataset.on_bad_image: quarantine",
    "leak": "keep one of the two, or train on proposed_split/, which has them on one side",
    "conflicting_labels": "decide which labels are right, and correct the table",
    "class_missing": "add photos of the class to train, or take it out of the tables",
}
# Above this share of the images a harmless fact is one finding about the dataset, not thousands.
COMMON_SHARE = 0.5
COMMON_IMAGES = 50
SUFFIXES = {"JPEG": ".jpg .jpeg .jpe .jfif", "MPO": ".jpg .jpeg .jpe .jfif", "PNG": ".png .apng",
            "BMP": ".bmp .dib", "GIF": ".gif", "WEBP": ".webp",
            "HEIF": ".heic .heif .hif", "AVIF": ".avif"}  # fmt: skip
ORIENTATIONS = {  # what EXIF asks for; the stored pixels lack it
    2: "mirror", 3: "half a turn", 4: "half a turn and mirror", 5: "a quarter turn and mirror",
    6: "a quarter turn clockwise", 7: "a quarter turn and mirror",
    8: "a quarter turn anticlockwise",
}  # fmt: skip
UNLIT = 48  # 95 % of a picture below: nothing is lit
WASHED_OUT = 235  # 95 % of a picture above
# An outlier lies `audit.outlier_deviations` robust deviations away, and a deviation counts as at
# least this much: in a very uniform set nothing ordinary may stand out.
LEAST_BRIGHTNESS_DEVIATION = 10.0  # levels
LEAST_SHARPNESS_DEVIATION = 0.4  # doublings
LEAST_SIZE_DEVIATION = 0.8  # doublings of the number of pixels
MAD_TO_DEVIATION = 1.4826  # of a normal distribution


Words = str | Callable[[pd.DataFrame], Iterable[str]]  # about every image, or about each


@dataclass
class Findings:
    """Collects findings; `table` sorts them, gravest first."""

    parts: list[pd.DataFrame] = field(default_factory=list)
    general: list[tuple] = field(default_factory=list)  # not about an image; thousands of classes

    def add(
        self, kind: str, rows: pd.DataFrame, details: Iterable[str] | str,
        severity: Severity | None = None, order: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        """Add one finding for each of `rows`, which have the columns image and split.

        `order`: numbers, the worst smallest, where some findings of a kind are worse than others.
        """
        if len(rows) == 0:
            return
        part = rows[["image", "split"]].copy()
        part["order"] = 0.0 if order is None else np.asarray(order, float)
        part["kind"] = kind
        part["severity"] = severity or KINDS[kind]
        part["detail"] = details if isinstance(details, str) else list(details)
        self.parts.append(part)

    def add_general(
        self, kind: str, split: str, detail: str, severity: Severity | None = None
    ) -> None:
        """Add one finding about a class, a split or the whole dataset."""
        self.general.append(("", split, 0.0, kind, severity or KINDS[kind], detail))

    def add_all(
        self, facts: pd.DataFrame, kind: str, which: pd.Series, words: Words,
        order: pd.Series | None = None,
    ) -> None:  # fmt: skip
        """Add a finding for every image that something is true of, the smallest `order` first.

        Where most images are alike in a harmless thing, one finding stands for all.
        """
        some = facts[which.to_numpy(bool)]
        details = words if isinstance(words, str) else list(words(some))
        if len(some) <= max(COMMON_IMAGES, COMMON_SHARE * len(facts)):
            worst = None if order is None else order[some.index].to_numpy()
            return self.add(kind, some, details, order=worst)
        example = details if isinstance(details, str) else details[0]
        alike = f"{kind}: {len(some)} of {len(facts)} images, such as {some['image'].iloc[0]}"
        self.add_general("common", "", f"{alike}: {example}", KINDS[kind])

    def table(self) -> pd.DataFrame:
        columns = ["image", "split", "order", *COLUMNS[2:]]
        parts = [*self.parts, *([pd.DataFrame(self.general, columns=columns)] * bool(self.general))]
        if not parts:
            return pd.DataFrame(columns=list(COLUMNS), dtype=object)
        table = pd.concat(parts, ignore_index=True)
        table["_severity"] = table["severity"].map(SEVERITIES.index)
        table["_kind"] = table["kind"].map(ORDER)
        keys = ["_severity", "_kind", "order", "split", "image"]
        table = table.sort_values(keys, kind="stable")
        return table[list(COLUMNS)].reset_index(drop=True)


@dataclass(frozen=True)
class Conclusion:
    """The answer of an audit: each reason says what is wrong, its remedy what to do about it."""

    reasons: tuple[str, ...]
    remedies: tuple[str, ...]

    @property
    def fit(self) -> bool:
        return not self.reasons

    @property
    def words(self) -> str:
        if self.fit:
            return "fit, no error was found; next: python -m workbench run PARAMETERS"
        return f"not fit, because {'; '.join(self.reasons)}; next: {'; '.join(self.remedies)}"

    @property
    def rows(self) -> list[dict[str, str]]:
        """Give a row a reason, for a table."""
        pairs = zip(self.reasons, self.remedies, strict=True)
        found = [
            {"fit to train on": "not fit", "because": why, "next": then} for why, then in pairs
        ]
        return found or [{"fit to train on": "fit", "because": "no error was found"}]


def conclude(findings: pd.DataFrame, empty: Sequence[str] = ()) -> Conclusion:
    """Condense errors and splits without an image to one reason each kind.

    Warnings make nothing unfit: a person looks and decides.
    """
    reasons, remedies = [], []
    for kind, rows in findings[findings["severity"] == "error"].groupby("kind", sort=False):
        first = rows.iloc[0]
        where = " ".join(part for part in (first["split"], first["image"]) if part)
        more = f" (and {len(rows) - 1} more)" if len(rows) > 1 else ""
        reasons.append(f"{kind.replace('_', ' ')}: {where}: {first['detail']}{more}")
        remedies.append(REMEDIES[kind])
    for split in empty:
        reasons.append(f"{split}: no image is left")
        remedies.append(
            "networks learn from train, every choice is made on val and 09 opens test; give each "
            f"images, or dataset.{split}_frac a share where the workbench splits"
        )
    return Conclusion(tuple(reasons), tuple(remedies))


def judge(
    dataset: Dataset, facts: pd.DataFrame, duplicates: Duplicates, statistics: LabelStatistics,
    settings: Settings,
) -> pd.DataFrame:  # fmt: skip
    """Judge files, copies, pictures and labels; return the findings, gravest first."""
    findings, readable = Findings(), facts[facts["refused"].isna()]
    add = partial(findings.add_all, readable)
    rows = dataset.rows.rename(columns={"filepath": "image"})
    _judge_files(facts, settings.dataset, findings)
    _judge_copies(rows, duplicates, findings)
    _judge_sizes(readable, settings, add)
    _judge_light(readable, settings.audit, add)
    _judge_labels(rows, statistics, settings.audit, findings)
    _judge_task(rows[rows["split"] != UNLABELED], settings, findings)
    missing = dataset.quarantine.rename(columns={"filepath": "image"})
    findings.add("unreadable", missing, missing["reason"], "warning")
    return findings.table()


def _judge_files(facts: pd.DataFrame, dataset: DatasetSettings, findings: Findings) -> None:
    """Judge what the files say: refused, frames, colours, orientation, names."""
    refused = facts[facts["refused"].notna()]
    severity = "error" if dataset.on_bad_image == "fail" else "warning"
    cut_off = refused["refused"].str.contains("truncated", case=False)
    findings.add("unreadable", refused[~cut_off], refused["refused"][~cut_off], severity)
    findings.add("truncated", refused[cut_off], refused["refused"][cut_off], severity)
    facts = facts[facts["refused"].isna()]
    add = partial(findings.add_all, facts)
    add("corrupt", facts["guessed"] != "",
        lambda some: (f"decoded with a guess: {words}" for words in some["guessed"]))  # fmt: skip
    add("animated", facts["frames"] > 1,
        lambda some: (f"{n} frames, the first is used" for n in some["frames"]))  # fmt: skip
    add("cmyk", facts["mode"].isin(["CMYK", "YCCK"]), "converted from CMYK to RGB")
    add("sixteen_bit", facts["bits"] == 16, "16 bits, the high byte is used")
    add("transparent", facts["mode"].isin(["RGBA", "LA", "PA"]), "composited on black")
    done = "done" if dataset.exif == "apply" else "not done, since dataset.exif is ignore"
    add("exif_rotated", facts["orientation"].isin(list(ORIENTATIONS)),
        lambda some: (f"EXIF asks for {ORIENTATIONS[o]}: {done}" for o in some["orientation"])
        )  # fmt: skip
    suffix = facts["image"].str.extract(r"(\.[^./]*)$", expand=False).str.lower().fillna("")
    fitting = {name + one for name, suffixes in SUFFIXES.items() for one in suffixes.split()}
    add("wrong_suffix", ~(facts["format"] + suffix).isin(fitting),
        lambda some: "named " + suffix[some.index] + ", holds " + some["format"])  # fmt: skip
    add("exif_location", facts["located"].astype(bool),
        "EXIF holds coordinates; remove them before sharing")  # fmt: skip


def _judge_copies(rows: pd.DataFrame, duplicates: Duplicates, findings: Findings) -> None:
    """Add exact and near-duplicates, leaks and conflicting labels; `rows` also has `image`."""
    notes = _Notes(rows)
    groups = number_groups(rows["group"].tolist())
    for members in [] if groups is None else groups_of(groups):
        words = f"of the same group {rows['group'].iloc[members[0]]!r} as"
        notes.add("leak", members, _first_unlike([notes.sides[one] for one in members]), words)
    for members in groups_of(duplicates.files):
        notes.add("exact_duplicate", members, _first_unlike(members), "the same bytes as")
        notes.compare(members, "the same file as", "error")
    for members in groups_of(duplicates.photos):
        files = duplicates.files[members].tolist()
        if len(set(files)) > 1:
            notes.add("near_duplicate", members, _first_unlike(files), "the same photo as")
            notes.compare(members, "the same photo as", "warning", files)
    for (kind, severity), told in notes.told.items():
        findings.add(kind, rows.iloc[list(told)], told.values(), severity)


class _Notes:
    """Collects what there is to say about rows, in plain lists: groups may be many thousands."""

    def __init__(self, rows: pd.DataFrame) -> None:
        self.images, self.splits = rows["image"].tolist(), rows["split"].tolist()
        # What nobody labelled is learned from as train is: it leaks beside val and test.
        self.sides = rows["split"].replace(UNLABELED, "train").tolist()
        self.labels, self.unknown = rows["labels"].tolist(), rows["unknown"].tolist()
        self.told: dict[tuple[str, Severity | None], dict[int, str]] = {}

    def add(
        self, kind: str, members: Sequence[int], partners: Sequence[int | None], words: str,
        severity: Severity | None = None, views: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """Note `words` and the partner for every member that has one."""
        others = f" and {len(members) - 2} more" if len(members) > 2 else ""
        told = self.told.setdefault((kind, severity), {})
        for own, (member, place) in enumerate(zip(members, partners, strict=True)):
            if place is not None:
                partner = members[place]
                told[member] = f"{words} {self.splits[partner]}: {self.images[partner]}{others}"
                if views:
                    told[member] += f", which has {views[place]} where this has {views[own]}"

    def compare(
        self, members: Sequence[int], words: str, severity: Severity,
        files: Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        """Note leaks and conflicts; with `files`, not those that equal files have already."""
        sides = [self.sides[member] for member in members]
        self.add("leak", members, _first_unlike(sides, files), words)
        labels = [self.labels[member] for member in members]
        disputed = disputed_labels(labels, [self.unknown[member] for member in members])
        if disputed:
            views = ["|".join(sorted(disputed.intersection(has))) or "none" for has in labels]
            partners = _first_unlike(views, files)
            self.add("conflicting_labels", members, partners, words, severity, views)


def _first_unlike(keys: Sequence[object], files: Sequence[int] | None = None) -> list[int | None]:
    """Give for each member the place of the first whose key differs; linear in the group.

    With `files`, none for members whose equal files differ: a finding has said so already.
    """
    other = next((place for place, key in enumerate(keys) if key != keys[0]), None)
    partners = [other if key == keys[0] else 0 for key in keys]
    if files is None:
        return partners
    seen: defaultdict[int, set] = defaultdict(set)
    for file, key in zip(files, keys, strict=True):
        seen[file].add(key)
    places = zip(files, partners, strict=True)
    return [None if len(seen[file]) > 1 else place for file, place in places]


def _judge_sizes(facts: pd.DataFrame, settings: Settings, add: Callable[..., None]) -> None:
    audit, input_size = settings.audit, settings.product_size
    sides = facts[["width", "height"]]
    shorter, longer = sides.min(axis=1), sides.max(axis=1)
    tiny = shorter < audit.tiny_pixels
    waste = 1 - shorter / longer
    pixels = facts["width"].astype(float) * facts["height"]
    more = pixels / pixels.median()
    odd = deviations(np.log2(pixels), ~tiny, LEAST_SIZE_DEVIATION).abs()

    def sizes(some: pd.DataFrame) -> list[str]:
        return [f"{w} x {h} pixels" for w, h in zip(some["width"], some["height"], strict=True)]

    def pairs(values: pd.Series, some: pd.DataFrame) -> Iterable[tuple[float, str]]:
        return zip(values[some.index], sizes(some), strict=True)

    add("tiny", tiny, sizes, shorter)
    add("odd_size", (odd > audit.outlier_deviations) & ~tiny,
        lambda some: (f"{s}, {share:.3g} times as many as usual" for share, s in pairs(more, some)),
        -odd)  # fmt: skip
    add("below_input", (longer < input_size) & ~tiny,
        lambda some: (f"{size}, the input has {input_size}" for size in sizes(some)),
        longer)  # fmt: skip
    add("letterbox_waste", waste > audit.max_letterbox_waste,
        lambda some: (f"{share:.0%} border, {size}" for share, size in pairs(waste, some)),
        -waste)  # fmt: skip


def _judge_light(facts: pd.DataFrame, audit: AuditSettings, add: Callable[..., None]) -> None:
    """Find outliers of light and sharpness; a constant image is that and nothing else."""
    constant = facts["range"] <= CONSTANT_RANGE
    seen, limit = ~constant, audit.outlier_deviations
    light = deviations(facts["brightness"], seen, LEAST_BRIGHTNESS_DEVIATION)
    doublings = np.log2(facts["sharpness"].clip(lower=1e-3))
    blur = deviations(doublings, seen, LEAST_SHARPNESS_DEVIATION)
    usual_light, usual_edge = facts["brightness"].median(), max(facts["sharpness"].median(), 1e-6)

    def lit(some: pd.DataFrame) -> list[str]:
        usual = f"of 255, usual is {usual_light:.0f}"
        return [f"mean brightness {value:.0f} {usual}" for value in some["brightness"]]

    add("constant", constant,
        lambda some: (f"brightness {value:.0f} everywhere" for value in some["brightness"]),
        facts["range"])  # fmt: skip
    add("dark", seen & ((light < -limit) | (facts["brightest"] < UNLIT)), lit, light)
    add("bright", seen & ((light > limit) | (facts["darkest"] > WASHED_OUT)), lit, -light)
    add("blurred", seen & (blur < -limit),
        lambda some: (f"{e / usual_edge:.0%} of the usual sharpness" for e in some["sharpness"]),
        blur)  # fmt: skip


def deviations(values: pd.Series, among: pd.Series, least: float) -> pd.Series:
    """Measure the distance from the median of `among` in robust standard deviations."""
    usual = values[among]
    median = usual.median() if len(usual) else 0.0
    spread = MAD_TO_DEVIATION * (usual - median).abs().median() if len(usual) else 0.0
    return (values - median) / max(spread, least)


def _judge_labels(
    rows: pd.DataFrame, statistics: LabelStatistics, audit: AuditSettings, findings: Findings
) -> None:
    """Judge the classes: missing, too small to tune on, always on, drifting, out of balance."""
    empty = rows[(rows["labels"].map(len) == 0) & (rows["unknown"].map(len) == 0)]
    findings.add("no_labels", empty, "none of the classes")
    for row in statistics.counts.to_dict("records"):
        _judge_class(row, audit, findings)
    for row in statistics.drift[statistics.drift["drifted"]].to_dict("records"):
        detail = (
            f"class {row['class']!r}: {row['share']:.1%} of {row['split']}, "
            f"{row['train_share']:.1%} of train (difference {row['difference']:+.1%}, "
            f"95 % interval {row['low']:+.1%} to {row['high']:+.1%})"
        )
        findings.add_general("split_drift", row["split"], detail)
    _judge_balance(statistics.counts, audit, findings)


def _judge_task(rows: pd.DataFrame, settings: Settings, findings: Findings) -> None:
    """Notice classes that exclude each other: each with a threshold of its own, they do not."""
    if settings.task == "multilabel" and has_one_label(rows):
        detail = (
            f"one label a photo, {len(rows)} of {len(rows)}: use task: single_label. As multilabel "
            "the app may say several classes, or none"
        )
        findings.add_general("one_label", "", detail)


def _judge_class(row: dict, audit: AuditSettings, findings: Findings) -> None:
    name, split, positives, images = row["class"], row["split"], row["positives"], row["images"]
    if positives == 0:
        detail = f"class {name!r} has no positive among the {images} images of {split}"
        severity = "error" if split == "train" else "warning"
        findings.add_general("class_missing", split, detail, severity)
    elif split == "train" and positives < audit.min_positives:
        detail = (
            f"class {name!r}: {positives} positives in train, fewer than audit.min_positives "
            f"{audit.min_positives}: too few to learn it from. Collect more"
        )
        findings.add_general("class_too_small", split, detail)
    elif split == "val" and min(positives, images - positives) < audit.min_positives:
        detail = (
            f"class {name!r}: {positives} positives and {images - positives} negatives in val, one "
            f"below audit.min_positives {audit.min_positives}: too few to tune its threshold on"
        )
        findings.add_general("class_too_small", split, detail)
    if 0 < images == positives:
        detail = (
            f"class {name!r} is true of all {images} images of {split}: without negatives there is "
            "nothing to learn and no threshold to tune. Add photos without it, or leave it out"
        )
        findings.add_general("class_always_on", split, detail)


def _judge_balance(counts: pd.DataFrame, audit: AuditSettings, findings: Findings) -> None:
    for split in SPLITS:
        positives = counts[(counts["split"] == split) & (counts["positives"] > 0)]
        if len(positives) < 2:
            continue
        most = positives.loc[positives["positives"].idxmax()]
        least = positives.loc[positives["positives"].idxmin()]
        ratio = most["positives"] / least["positives"]
        if ratio > audit.max_imbalance:
            detail = (
                f"{most['class']!r} has {most['positives']} positives, {least['class']!r} "
                f"{least['positives']}: {ratio:.0f} times fewer. Consider loss.class_weights"
            )
            findings.add_general("imbalance", split, detail)

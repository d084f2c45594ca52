"""Is this dataset fit to train on? One pass over the images, one table of findings.

`audit_dataset` decides nothing for the user: it finds, counts and proposes. Writing is apart, in
`write_audit`; drawing is in `show.audit_plots`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from workbench.data.audit.duplicates import Duplicates, groups_of, read_photos
from workbench.data.audit.findings import KINDS, SEVERITIES, Conclusion, conclude, judge
from workbench.data.audit.labels import LabelStatistics, label_statistics
from workbench.data.cells import csv_text
from workbench.data.decode import examine_image
from workbench.data.layouts import SPLITS
from workbench.data.prepare import shrink
from workbench.data.splits import ASIDE, Resplit, propose_resplit
from workbench.data.tables import Dataset, read_dataset, write_tables
from workbench.errors import DatasetError
from workbench.files import write_json, write_text
from workbench.settings import Settings

log = logging.getLogger(__name__)

FEW = 10
SHOWN = 20
FINDINGS = "audit.csv"
SUMMARY = "audit.json"
PROPOSAL = "proposed_split"
MOVES = "moves.csv"
COUNTED = ("class", "split", "positives")
MOST_PAIRS = 20
TILE_PIXELS = 220
GAP_PIXELS = 6
ABOUT_PAIRS = ("leak", "conflicting_labels", "exact_duplicate", "near_duplicate")


@dataclass(frozen=True)
class Exhibit:
    """One of the images to look at first; `pixels` is None where it cannot be read."""

    image: str
    split: str
    labels: tuple[str, ...]
    kind: str
    severity: str
    detail: str
    pixels: np.ndarray | None  # uint8 [height, width, 3], beside its copy where it is about one


@dataclass(frozen=True)
class Audit:
    """What was found. `dataset` lacks the unreadable images where they go to quarantine."""

    dataset: Dataset
    findings: pd.DataFrame  # image, split, kind, severity, detail; gravest first
    summary: dict[str, Any]  # strict JSON
    facts: pd.DataFrame  # one row an image that was listed, readable or not
    statistics: LabelStatistics
    duplicates: Duplicates
    proposal: Resplit
    exhibits: tuple[Exhibit, ...]
    unreadable: tuple[str, ...]  # one sentence each, with table and line
    on_bad_image: str

    @property
    def conclusion(self) -> Conclusion:
        """Say whether this is fit to train on."""
        return conclude(self.findings, _empty(self.dataset))

    @property
    def sha256(self) -> dict[str, str]:
        """The hash of every image's bytes, by its path."""
        return dict(zip(self.facts["image"], self.facts["sha256"], strict=True))

    def raise_if_unfit(self) -> None:
        """Refuse to go on with an unreadable image, where that means to fail, or an empty split."""
        if self.unreadable and self.on_bad_image == "fail":
            rest = len(self.unreadable) - FEW
            lines = [*self.unreadable[:FEW], *([f"… and {rest} more."] if rest > 0 else [])]
            remedy = "Repair or remove these images, or set dataset.on_bad_image: quarantine to go"
            raise DatasetError("\n".join([*lines, f"{remedy} on without them."]))
        empty = _empty(self.dataset)
        if empty:
            remedy = conclude(self.findings.head(0), empty[:1]).remedies[0]
            raise DatasetError(f"{' and '.join(empty)}: no image is left; {remedy}")


def _empty(dataset: Dataset) -> list[str]:
    return [split for split in SPLITS if split not in set(dataset.rows["split"])]


def audit_dataset(dataset: Dataset, settings: Settings) -> Audit:
    """Look at every image and every label once."""
    dataset = read_photos(dataset, settings)
    facts, duplicates = _examine(dataset, settings)
    statistics = label_statistics(dataset)
    findings = judge(dataset, facts, duplicates, statistics, settings)
    refused = facts[facts["refused"].notna()]
    reasons = dict(zip(refused["image"], refused["refused"], strict=True))
    proposal = propose_resplit(dataset, duplicates, reasons)
    bad = dataset.rows[dataset.rows["filepath"].isin(list(reasons))].itertuples()
    sentences = [f"{b.source}, line {b.line}: {b.filepath} {reasons[b.filepath]}." for b in bad]
    left = dataset.without(reasons) if settings.dataset.on_bad_image == "quarantine" else dataset
    found = conclude(findings, _empty(left))
    summary = summarise(dataset, facts, duplicates, statistics, findings, proposal)
    summary |= {"fit": found.fit, "because": found.reasons, "next": found.remedies}
    counts = summary["findings"]
    log.info("Audited %d images: %d errors, %d warnings, %d notes", summary["images"],
             *(counts[severity] for severity in SEVERITIES))  # fmt: skip
    return Audit(
        dataset=left, findings=findings,
        summary={"model_input": settings.product_size} | summary, facts=facts,
        statistics=statistics, duplicates=duplicates, proposal=proposal,
        exhibits=worst_images(dataset, findings, duplicates, settings),
        unreadable=tuple(sentences), on_bad_image=settings.dataset.on_bad_image,
    )  # fmt: skip


def _examine(dataset: Dataset, settings: Settings) -> tuple[pd.DataFrame, Duplicates]:
    rows, photos = dataset.rows, dataset.photos
    names = rows["filepath"].tolist()
    collection, duplicates = photos.facts(names), photos.copies(names, settings)
    table = collection.table
    table.insert(0, "image", rows["filepath"].to_numpy(object))
    table.insert(1, "split", rows["split"].to_numpy(object))
    table["hash"] = [f"{value:016x}" for value in collection.coarse[:, 0]]
    table["photo"] = duplicates.photos
    return table, duplicates


def write_audit(audit: Audit, folder: Path) -> None:
    """Write findings, summary and the proposed split; cells cannot run as spreadsheet formulas."""
    write_json(folder / SUMMARY, audit.summary)
    write_tables(audit.proposal.dataset, folder / PROPOSAL)
    for name, table in ((FINDINGS, audit.findings), (f"{PROPOSAL}/{MOVES}", audit.proposal.moves)):
        write_text(folder / name, csv_text(table.columns, table.itertuples(index=False)))


def audit_folder(folder: Path, settings: Settings, out: Path | None) -> tuple[str, dict[str, Any]]:
    """Audit any dataset folder without a run; return words, the conclusion last, and figures."""
    report = audit_dataset(read_dataset(folder, settings), settings)
    if out:
        write_audit(report, out)
    lines = [f"{report.summary['images']} images, {len(report.dataset.classes)} classes"]
    lines += [f"{count} {severity}" for severity, count in report.summary["findings"].items()]
    for row in report.findings.head(SHOWN).itertuples():
        lines.append(f"{row.severity:<8} {row.kind:<24} {row.image}: {row.detail}")
    if len(report.findings) > SHOWN:
        lines.append(f"… {len(report.findings) - SHOWN} more; write them with --out FOLDER")
    return "\n".join([*lines, report.conclusion.words]), report.summary


def summarise(
    dataset: Dataset, facts: pd.DataFrame, duplicates: Duplicates, statistics: LabelStatistics,
    findings: pd.DataFrame, proposal: Resplit,
) -> dict[str, Any]:  # fmt: skip
    """Condense the audit to counts and spreads."""
    readable = facts[facts["refused"].isna()]
    severities = findings["severity"].value_counts()
    kinds = findings["kind"].value_counts()
    aside = proposal.moves["to"] == ASIDE
    return {
        "images": len(facts), "readable": len(readable), "quarantined": len(dataset.quarantine),
        "splits": dict.fromkeys(SPLITS, 0) | facts["split"].value_counts().to_dict(),
        "findings": {severity: int(severities.get(severity, 0)) for severity in SEVERITIES},
        "kinds": {kind: int(kinds[kind]) for kind in KINDS if kind in kinds},
        "exact_duplicate_groups": len(groups_of(duplicates.files)),
        "photo_groups": len(groups_of(duplicates.photos)),
        "groups": int(dataset.rows.loc[dataset.rows["group"] != "", "group"].nunique()),
        "near_duplicate_pairs": len(duplicates.pairs),
        "proposed_split": {"moved": int((~aside).sum()), "left_out": int(aside.sum())},
        "labels": _summary_of_labels(statistics), "pictures": _summary_of_pictures(readable),
    }  # fmt: skip


def _summary_of_labels(statistics: LabelStatistics) -> dict[str, Any]:
    per_image, counts = statistics.labels_per_image, statistics.counts
    weighted = per_image.assign(total=per_image["labels"] * per_image["images"])
    totals = weighted.groupby("split")[["total", "images"]].sum()

    def imbalance(split: str) -> float | None:
        """Divide the most frequent class by the rarest that occurs."""
        positives = counts.loc[(counts["split"] == split) & (counts["positives"] > 0), "positives"]
        return round(float(positives.max() / positives.min()), 3) if len(positives) else None

    classes: dict[str, dict[str, int]] = {}
    for name, split, positives in zip(*(counts[key] for key in COUNTED), strict=True):
        classes.setdefault(name, {})[split] = int(positives)
    return {
        "classes": classes,
        "per_image": {
            split: round(float(totals["total"][split] / totals["images"][split]), 4)
            for split in SPLITS
            if split in totals.index
        },
        "imbalance": {split: imbalance(split) for split in SPLITS},
        "frequent_pairs": [
            [row.first, row.second, int(row.images), round(float(row.lift), 3)]
            for row in statistics.pairs.head(MOST_PAIRS).itertuples()
        ],
        "drifted": int(statistics.drift["drifted"].sum()),
    }


def _summary_of_pictures(readable: pd.DataFrame) -> dict[str, Any]:
    sides = readable[["width", "height"]]
    spread_of = {
        "width": readable["width"], "height": readable["height"],
        "aspect": readable["width"] / readable["height"].clip(lower=1),
        "letterbox_waste": 1 - sides.min(axis=1) / sides.max(axis=1).clip(lower=1),
        "brightness": readable["brightness"], "sharpness": readable["sharpness"],
        "bytes": readable["bytes"],
    }  # fmt: skip
    shares = {"least": 0.0, "low": 0.05, "typical": 0.5, "high": 0.95, "most": 1.0}

    def spread(values: pd.Series) -> dict[str, float] | None:
        if not len(values):
            return None
        return {name: round(float(values.quantile(share)), 4) for name, share in shares.items()}

    formats = {str(name): int(n) for name, n in readable["format"].value_counts().items()}
    return {"formats": formats} | {name: spread(values) for name, values in spread_of.items()}


def worst_images(
    dataset: Dataset, findings: pd.DataFrame, duplicates: Duplicates, settings: Settings
) -> tuple[Exhibit, ...]:
    """Decode the `audit.gallery_size` worst images small, each shown once."""
    row_of = {image: row for row, image in enumerate(dataset.rows["filepath"])}
    exhibits = []
    for finding in _choose_worst(findings, settings.audit.gallery_size).to_dict("records"):
        row = row_of.get(finding["image"])
        rows = [] if row is None else [row]
        if finding["kind"] in ABOUT_PAIRS and row is not None:
            rows.append(_copy_of(row, dataset.rows, duplicates))
        labels = dataset.rows["labels"].iloc[row] if rows else ()
        pixels = _side_by_side(dataset, rows, settings)
        exhibits.append(Exhibit(**finding, labels=labels, pixels=pixels))
    return tuple(exhibits)


def _choose_worst(findings: pd.DataFrame, count: int) -> pd.DataFrame:
    """Take the worst of every kind, then the second of every kind, and so on; notes come last."""
    named = findings[findings["image"] != ""].drop_duplicates("image")
    turn = named.groupby("kind", sort=False).cumcount()
    places = np.lexsort((np.arange(len(named)), turn, named["severity"] == "info"))
    return named.iloc[places[:count]]


def _copy_of(row: int, rows: pd.DataFrame, duplicates: Duplicates) -> int:
    """Choose the copy to show beside: in another split if there is one; else one of the group."""
    splits, copies = rows["split"], np.flatnonzero(duplicates.photos == duplicates.photos[row])
    if len(copies) == 1:
        copies = np.flatnonzero(rows["group"] == rows["group"].iloc[row])
    copies = copies[copies != row]
    elsewhere = copies[splits.iloc[copies].to_numpy() != splits.iloc[row]]
    return int(elsewhere[0] if len(elsewhere) else copies[0])


def _side_by_side(dataset: Dataset, rows: list[int], settings: Settings) -> np.ndarray | None:
    tiles = []
    for row in rows:
        path = dataset.images / dataset.rows["filepath"].iloc[row]
        _, pixels = examine_image(path, settings.dataset)
        if pixels is not None:
            tiles.append(shrink(pixels, TILE_PIXELS))
    if not tiles:
        return None
    height = max(len(tile) for tile in tiles)
    white = {"borderType": cv2.BORDER_CONSTANT, "value": (255, 255, 255)}
    padded = [
        cv2.copyMakeBorder(tile, 0, height - len(tile), 0, GAP_PIXELS, **white) for tile in tiles
    ]
    return np.hstack(padded)[:, :-GAP_PIXELS]

"""Is this dataset fit to train on? One pass over the images, one table of findings.

`audit_dataset` decides nothing for the user: it finds, counts and proposes. Writing is apart, in
`write_audit`; drawing is in `show.audit_plots`.
"""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench.data.duplicates import (
    Duplicates,
    groups_of,
    join_groups,
    judge_duplicates,
    same_files,
)
from workbench.data.facts import collect_facts
from workbench.data.findings import COLUMNS, KINDS, SEVERITIES, Findings
from workbench.data.judgements import CONSTANT_RANGE, judge_files, judge_labels, judge_pictures
from workbench.data.label_statistics import SPLITS, LabelStatistics, label_statistics
from workbench.data.layouts import guard
from workbench.data.near_duplicates import find_near_duplicates
from workbench.data.tables import Dataset
from workbench.data.threads import count_cores
from workbench.data.thumbnails import Thumbnails
from workbench.errors import DatasetError
from workbench.files import write_json, write_text
from workbench.settings import Settings

log = logging.getLogger(__name__)

FEW = 10
FINDINGS_NAME = "audit.csv"
SUMMARY_NAME = "audit.json"


@dataclass(frozen=True)
class Audit:
    """What was found. `dataset` lacks the unreadable images where they go to quarantine."""

    dataset: Dataset
    findings: pd.DataFrame  # image, split, kind, severity, detail; gravest first
    summary: dict[str, Any]  # strict JSON
    facts: pd.DataFrame  # one row an image that was listed, readable or not
    statistics: LabelStatistics
    duplicates: Duplicates
    unreadable: tuple[str, ...]  # one sentence each, with table and line
    quarantine: pd.DataFrame
    on_bad_image: str

    def raise_if_unfit(self) -> None:
        """Refuse to go on where an image cannot be read and `on_bad_image` is `fail`."""
        if not self.unreadable or self.on_bad_image == "quarantine":
            return
        shown = list(self.unreadable[:FEW])
        if len(self.unreadable) > FEW:
            shown.append(f"… and {len(self.unreadable) - FEW} more.")
        shown.append(
            "Repair or remove these images, or set dataset.on_bad_image: quarantine to go on "
            "without them."
        )
        raise DatasetError("\n".join(shown))


def audit_dataset(
    dataset: Dataset,
    settings: Settings,
    *,
    scores: np.ndarray | None = None,
) -> Audit:
    """Look at every image and every label once.

    `scores`: probabilities float [rows, classes] that come from a network that did not train on
    the row, NaN rows where there is none.
    """
    threads = count_cores(settings.run.threads)
    facts, duplicates = _examine(dataset, settings, threads)
    statistics = label_statistics(dataset)
    findings = _judge(dataset, settings, facts, duplicates, statistics)
    reasons = _reasons(facts)
    kept = dataset
    if settings.dataset.on_bad_image == "quarantine":
        kept = dataset.without(reasons)
    audit = Audit(
        dataset=kept,
        findings=findings,
        summary=_summary(dataset, facts, duplicates, statistics, findings),
        facts=facts,
        statistics=statistics,
        duplicates=duplicates,
        unreadable=_sentences(dataset.rows, reasons),
        quarantine=kept.quarantine,
        on_bad_image=settings.dataset.on_bad_image,
    )
    _log(audit)
    return audit


def _examine(dataset: Dataset, settings: Settings, threads: int) -> tuple[pd.DataFrame, Duplicates]:
    """Decode every image once and search for copies; the thumbnails are gone afterwards."""
    rows = dataset.rows
    paths = [dataset.images / filepath for filepath in rows["filepath"]]
    with Thumbnails() as store:
        collection = collect_facts(paths, settings.dataset, store, threads)
        table = collection.table
        files = same_files(table["sha256"])
        first = ~pd.Series(files).duplicated()
        wanted = table["refused"].isna() & (table["range"] > CONSTANT_RANGE) & first
        near = find_near_duplicates(
            collection.coarse,
            collection.fine,
            store,
            wanted.to_numpy(),
            settings.audit.near_duplicate_bits,
            threads,
        )
    duplicates = join_groups(files, near)
    table.insert(0, "image", rows["filepath"].to_numpy())
    table.insert(1, "split", rows["split"].to_numpy())
    table["hash"] = [f"{value:016x}" for value in collection.coarse[:, 0]]
    table["photo"] = duplicates.photos
    return table, duplicates


def _judge(
    dataset: Dataset,
    settings: Settings,
    facts: pd.DataFrame,
    duplicates: Duplicates,
    statistics: LabelStatistics,
) -> pd.DataFrame:
    findings = Findings()
    rows = dataset.rows.rename(columns={"filepath": "image"})
    judge_files(facts, settings.dataset, findings)
    judge_duplicates(rows, duplicates, findings)
    judge_pictures(facts, settings.student_size, settings.audit, findings)
    judge_labels(rows, statistics, settings.audit, findings)
    missing = dataset.quarantine.rename(columns={"filepath": "image"})
    findings.add("unreadable", missing, missing["reason"], "warning")
    return findings.table()


def _reasons(facts: pd.DataFrame) -> dict[str, str]:
    refused = facts[facts["refused"].notna()]
    return dict(zip(refused["image"], refused["refused"], strict=True))


def _sentences(rows: pd.DataFrame, reasons: Mapping[str, str]) -> tuple[str, ...]:
    bad = rows[rows["filepath"].isin(list(reasons))]
    return tuple(
        f"{row.source}, line {row.line}: {row.filepath} {reasons[row.filepath]}."
        for row in bad.itertuples()
    )


def _summary(
    dataset: Dataset,
    facts: pd.DataFrame,
    duplicates: Duplicates,
    statistics: LabelStatistics,
    findings: pd.DataFrame,
) -> dict[str, Any]:
    """Condense the audit to strict JSON: counts, and null where nothing can be said."""
    counts = statistics.counts
    readable = facts[facts["refused"].isna()]
    severities = findings["severity"].value_counts()
    kinds = findings["kind"].value_counts()
    return {
        "fit": not bool((findings["severity"] == "error").any()),
        "images": len(facts),
        "readable": len(readable),
        "quarantined": len(dataset.quarantine),
        "splits": {split: int((facts["split"] == split).sum()) for split in SPLITS},
        "classes": {
            name: {row["split"]: int(row["positives"]) for row in group.to_dict("records")}
            for name, group in counts.groupby("class", sort=False)
        },
        "findings": {severity: int(severities.get(severity, 0)) for severity in SEVERITIES},
        "kinds": {kind: int(kinds[kind]) for kind in KINDS if kind in kinds},
        "exact_duplicate_groups": len(groups_of(duplicates.files)),
        "photo_groups": len(groups_of(duplicates.photos)),
        "near_duplicate_pairs": len(duplicates.pairs),
        "pixels": _spread(readable["width"] * readable["height"]),
        "aspect": _spread(readable["width"] / readable["height"].clip(lower=1)),
        "letterbox_waste": _spread(_waste(readable)),
        "brightness": _spread(readable["brightness"]),
        "sharpness": _spread(readable["sharpness"]),
        "formats": {str(name): int(n) for name, n in readable["format"].value_counts().items()},
    }


def _waste(facts: pd.DataFrame) -> pd.Series:
    sides = facts[["width", "height"]]
    return 1 - sides.min(axis=1) / sides.max(axis=1).clip(lower=1)


def _spread(values: pd.Series) -> dict[str, float] | None:
    if not len(values):
        return None
    names = {"least": 0.0, "typical": 0.5, "most": 1.0}
    return {name: round(float(values.quantile(share)), 4) for name, share in names.items()}


def _log(audit: Audit) -> None:
    counts = audit.summary["findings"]
    log.info(
        "Audited %d images: %d errors, %d warnings, %d notes",
        audit.summary["images"],
        *(counts[severity] for severity in SEVERITIES),
    )


def write_audit(audit: Audit, folder: Path) -> tuple[Path, ...]:
    """Write the findings and the summary; cells cannot run as spreadsheet formulas."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    rows = audit.findings.itertuples(index=False)
    writer.writerows([guard(str(cell)) for cell in row] for row in rows)
    write_text(folder / FINDINGS_NAME, text.getvalue())
    write_json(folder / SUMMARY_NAME, audit.summary)
    return folder / FINDINGS_NAME, folder / SUMMARY_NAME

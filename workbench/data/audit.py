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

from workbench.data.audit_summary import summarise
from workbench.data.duplicates import Duplicates, find_duplicates, judge_duplicates
from workbench.data.facts import collect_facts
from workbench.data.findings import SEVERITIES, Findings
from workbench.data.gallery import Exhibit, worst_images
from workbench.data.judgements import judge_files, judge_labels, judge_pictures
from workbench.data.label_errors import COLUMNS as SUSPECT_COLUMNS
from workbench.data.label_errors import judge_suspects, suspect_labels
from workbench.data.label_statistics import LabelStatistics, label_statistics
from workbench.data.layouts import SPLITS, guard
from workbench.data.resplit import Resplit, propose_resplit
from workbench.data.tables import Dataset, write_tables
from workbench.data.threads import count_cores
from workbench.data.thumbnails import Thumbnails
from workbench.errors import DatasetError
from workbench.files import write_json, write_text
from workbench.settings import Settings

log = logging.getLogger(__name__)

FEW = 10
FINDINGS_NAME = "audit.csv"
SUMMARY_NAME = "audit.json"
PROPOSAL_NAME = "proposed_split"
MOVES_NAME = "moves.csv"


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
    suspects: pd.DataFrame  # doubtful labels: row, class, given, probability, instead
    exhibits: tuple[Exhibit, ...]  # the worst images, decoded small
    unreadable: tuple[str, ...]  # one sentence each, with table and line
    quarantine: pd.DataFrame
    on_bad_image: str

    def raise_if_unfit(self) -> None:
        """Refuse to go on with an unreadable image, where that means to fail, or an empty split."""
        if self.unreadable and self.on_bad_image == "fail":
            raise DatasetError(self._unreadable_lines())
        empty = [split for split in SPLITS if split not in set(self.dataset.rows["split"])]
        if empty:
            raise DatasetError(
                f"{' and '.join(empty)}: no image is left. Networks learn from train, every choice "
                f"is made on val and 09 opens test; give each images, or dataset.{empty[0]}_frac a "
                "share where the workbench splits"
            )

    def _unreadable_lines(self) -> str:
        shown = list(self.unreadable[:FEW])
        if len(self.unreadable) > FEW:
            shown.append(f"… and {len(self.unreadable) - FEW} more.")
        shown.append(
            "Repair or remove these images, or set dataset.on_bad_image: quarantine to go on "
            "without them."
        )
        return "\n".join(shown)


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
    suspects = _suspect(dataset, settings, scores)
    findings = _judge(dataset, settings, facts, duplicates, statistics, suspects)
    reasons = _reasons(facts)
    proposal = propose_resplit(dataset, duplicates, reasons)
    kept = dataset
    if settings.dataset.on_bad_image == "quarantine":
        kept = dataset.without(reasons)
    audit = Audit(
        dataset=kept,
        findings=findings,
        summary={"model_input": settings.student_size}
        | summarise(dataset, facts, duplicates, statistics, findings, proposal),
        facts=facts,
        statistics=statistics,
        duplicates=duplicates,
        proposal=proposal,
        suspects=suspects,
        exhibits=worst_images(dataset, findings, duplicates, settings),
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
        bits = settings.audit.near_duplicate_bits
        duplicates = find_duplicates(collection, store, bits, threads)
    table = collection.table
    table.insert(0, "image", rows["filepath"].to_numpy(object))
    table.insert(1, "split", rows["split"].to_numpy(object))
    table["hash"] = [f"{value:016x}" for value in collection.coarse[:, 0]]
    table["photo"] = duplicates.photos
    return table, duplicates


def _suspect(dataset: Dataset, settings: Settings, scores: np.ndarray | None) -> pd.DataFrame:
    if scores is None or not settings.audit.label_errors:
        return pd.DataFrame(columns=list(SUSPECT_COLUMNS))
    return suspect_labels(dataset.rows, dataset.classes, np.asarray(scores), settings.task)


def _judge(
    dataset: Dataset,
    settings: Settings,
    facts: pd.DataFrame,
    duplicates: Duplicates,
    statistics: LabelStatistics,
    suspects: pd.DataFrame,
) -> pd.DataFrame:
    findings = Findings()
    rows = dataset.rows.rename(columns={"filepath": "image"})
    judge_files(facts, settings.dataset, findings)
    judge_duplicates(rows, duplicates, findings)
    judge_pictures(facts, settings.student_size, settings.audit, findings)
    judge_labels(rows, statistics, settings.audit, findings)
    judge_suspects(suspects, rows, findings)
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


def _log(audit: Audit) -> None:
    counts = audit.summary["findings"]
    log.info(
        "Audited %d images: %d errors, %d warnings, %d notes",
        audit.summary["images"],
        *(counts[severity] for severity in SEVERITIES),
    )


def write_audit(audit: Audit, folder: Path) -> tuple[Path, ...]:
    """Write findings, summary and the proposed split; cells cannot run as spreadsheet formulas."""
    proposal = folder / PROPOSAL_NAME
    _write_csv(folder / FINDINGS_NAME, audit.findings)
    write_json(folder / SUMMARY_NAME, audit.summary)
    write_tables(audit.proposal.dataset, proposal)
    _write_csv(proposal / MOVES_NAME, audit.proposal.moves)
    return folder / FINDINGS_NAME, folder / SUMMARY_NAME, proposal


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.columns)
    rows = table.itertuples(index=False)
    writer.writerows([guard(str(cell)) for cell in row] for row in rows)
    write_text(path, text.getvalue())

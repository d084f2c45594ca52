"""The audit in one page of strict JSON: counts and spreads, null where nothing can be said."""

from __future__ import annotations

from typing import Any

import pandas as pd

from workbench.data.duplicates import Duplicates, groups_of
from workbench.data.findings import KINDS, SEVERITIES
from workbench.data.label_statistics import SPLITS, LabelStatistics
from workbench.data.resplit import ASIDE, Resplit
from workbench.data.tables import Dataset

MOST_PAIRS = 20


def summarise(
    dataset: Dataset,
    facts: pd.DataFrame,
    duplicates: Duplicates,
    statistics: LabelStatistics,
    findings: pd.DataFrame,
    proposal: Resplit,
) -> dict[str, Any]:
    """Condense the audit; `fit` is false as long as there is an error."""
    readable = facts[facts["refused"].isna()]
    severities = findings["severity"].value_counts()
    kinds = findings["kind"].value_counts()
    aside = proposal.moves["to"] == ASIDE
    return {
        "fit": not bool((findings["severity"] == "error").any()),
        "images": len(facts),
        "readable": len(readable),
        "quarantined": len(dataset.quarantine),
        "splits": {split: int((facts["split"] == split).sum()) for split in SPLITS},
        "findings": {severity: int(severities.get(severity, 0)) for severity in SEVERITIES},
        "kinds": {kind: int(kinds[kind]) for kind in KINDS if kind in kinds},
        "exact_duplicate_groups": len(groups_of(duplicates.files)),
        "photo_groups": len(groups_of(duplicates.photos)),
        "near_duplicate_pairs": len(duplicates.pairs),
        "proposed_split": {"moved": int((~aside).sum()), "left_out": int(aside.sum())},
        "labels": _labels(statistics),
        "pictures": _pictures(readable),
    }


def _labels(statistics: LabelStatistics) -> dict[str, Any]:
    per_image = statistics.labels_per_image
    weighted = per_image.assign(total=per_image["labels"] * per_image["images"])
    totals = weighted.groupby("split")[["total", "images"]].sum()
    pairs = statistics.pairs.head(MOST_PAIRS)
    return {
        "classes": {
            name: {row["split"]: int(row["positives"]) for row in group.to_dict("records")}
            for name, group in statistics.counts.groupby("class", sort=False)
        },
        "per_image": {
            split: round(float(totals["total"][split] / totals["images"][split]), 4)
            for split in SPLITS
            if split in totals.index
        },
        "imbalance": {split: _imbalance(statistics.counts, split) for split in SPLITS},
        "frequent_pairs": [
            [row.first, row.second, int(row.images), round(float(row.lift), 3)]
            for row in pairs.itertuples()
        ],
        "drifted": int(statistics.drift["drifted"].sum()),
    }


def _imbalance(counts: pd.DataFrame, split: str) -> float | None:
    """Divide the most frequent class by the rarest that occurs."""
    positives = counts.loc[(counts["split"] == split) & (counts["positives"] > 0), "positives"]
    return round(float(positives.max() / positives.min()), 3) if len(positives) else None


def _pictures(readable: pd.DataFrame) -> dict[str, Any]:
    sides = readable[["width", "height"]]
    waste = 1 - sides.min(axis=1) / sides.max(axis=1).clip(lower=1)
    return {
        "formats": {str(name): int(n) for name, n in readable["format"].value_counts().items()},
        "width": _spread(readable["width"]),
        "height": _spread(readable["height"]),
        "aspect": _spread(readable["width"] / readable["height"].clip(lower=1)),
        "letterbox_waste": _spread(waste),
        "brightness": _spread(readable["brightness"]),
        "sharpness": _spread(readable["sharpness"]),
        "bytes": _spread(readable["bytes"]),
    }


def _spread(values: pd.Series) -> dict[str, float] | None:
    if not len(values):
        return None
    shares = {"least": 0.0, "low": 0.05, "typical": 0.5, "high": 0.95, "most": 1.0}
    return {name: round(float(values.quantile(share)), 4) for name, share in shares.items()}

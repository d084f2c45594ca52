"""From facts to findings: which images and which classes a person should look at.

Every rule is one small function from tables to findings; the knobs are `audit.*`.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from workbench.data.facts import CONSTANT_RANGE
from workbench.data.findings import Findings
from workbench.data.label_statistics import SPLITS, LabelStatistics
from workbench.settings import AuditSettings, DatasetSettings

SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "MPO": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png", ".apng"),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "WEBP": (".webp",),
}
ORIENTATIONS = {  # what EXIF asks for; the stored pixels lack it
    2: "mirror",
    3: "half a turn",
    4: "half a turn and mirror",
    5: "a quarter turn and mirror",
    6: "a quarter turn clockwise",
    7: "a quarter turn and mirror",
    8: "a quarter turn anticlockwise",
}
UNLIT = 48  # 95 % of a picture below: nothing is lit
WASHED_OUT = 235  # 95 % of a picture above
# An outlier lies `audit.outlier_deviations` robust deviations away, and a deviation counts as at
# least this much: in a very uniform set nothing ordinary may stand out.
LEAST_BRIGHTNESS_DEVIATION = 10.0  # levels
LEAST_SHARPNESS_DEVIATION = 0.4  # doublings
MAD_TO_DEVIATION = 1.4826  # of a normal distribution


def judge_files(facts: pd.DataFrame, dataset: DatasetSettings, findings: Findings) -> None:
    """Judge what the files say: refused, frames, colours, orientation, names."""
    refused = facts[facts["refused"].notna()]
    severity = "error" if dataset.on_bad_image == "fail" else "warning"
    cut_off = refused["refused"].str.contains("truncated", case=False)
    findings.add("unreadable", refused[~cut_off], refused["refused"][~cut_off], severity)
    findings.add("truncated", refused[cut_off], refused["refused"][cut_off], severity)
    facts = facts[facts["refused"].isna()]

    def fixed(kind: str, which: pd.Series, detail: str | pd.Series) -> None:
        chosen = facts[which.to_numpy(bool)]
        text = detail if isinstance(detail, str) else detail[chosen.index].tolist()
        findings.add_or_summarise(kind, chosen, text, len(facts))

    frames = facts["frames"].astype(str) + " frames, the first is used"
    fixed("animated", facts["frames"] > 1, frames)
    fixed("cmyk", facts["mode"].isin(["CMYK", "YCCK"]), "converted from CMYK to RGB")
    fixed("sixteen_bit", facts["bits"] == 16, "16 bits a sample, the high byte is used")
    fixed("transparent", facts["mode"].isin(["RGBA", "LA", "PA"]), "composited on black")
    turned = facts["orientation"].map(ORIENTATIONS)
    done = "done" if dataset.exif == "apply" else "not done, since dataset.exif is ignore"
    fixed("exif_rotated", turned.notna(), "EXIF asks for " + turned + ": " + done)
    fixed("wrong_suffix", *_wrong_suffix(facts))
    fixed("exif_location", facts["located"], "EXIF holds coordinates; remove them before sharing")


def _wrong_suffix(facts: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    suffix = facts["image"].str.extract(r"(\.[^./]*)$", expand=False).str.lower().fillna("")
    wrong = [
        end not in SUFFIXES.get(format_, (end,))
        for end, format_ in zip(suffix, facts["format"], strict=True)
    ]
    detail = "named " + suffix + ", holds " + facts["format"]
    return pd.Series(wrong, facts.index, dtype=bool), detail


Criterion = tuple[str, pd.Series, pd.Series, pd.Series]  # kind, which, detail, worst first


def judge_pictures(
    facts: pd.DataFrame, input_size: int, audit: AuditSettings, findings: Findings
) -> None:
    """Judge what the pictures look like: size, shape, light, sharpness."""
    facts = facts[facts["refused"].isna()]
    criteria = _size_criteria(facts, input_size, audit) + _light_criteria(facts, audit)
    for kind, which, detail, order in criteria:
        chosen = facts[which.to_numpy(bool)]
        details, places = detail[chosen.index].tolist(), order[chosen.index].to_numpy()
        findings.add_or_summarise(kind, chosen, details, len(facts), places)


def _size_criteria(facts: pd.DataFrame, input_size: int, audit: AuditSettings) -> list[Criterion]:
    sides = facts[["width", "height"]]
    shorter, longer = sides.min(axis=1), sides.max(axis=1)
    size = facts["width"].astype(str) + " x " + facts["height"].astype(str) + " pixels"
    tiny = shorter < audit.tiny_pixels
    enlarged = (longer < input_size) & ~tiny
    waste = 1 - shorter / longer
    wasteful = waste > audit.max_letterbox_waste
    return [
        ("tiny", tiny, size, shorter),
        ("below_input", enlarged, size + f", the input has {input_size}", longer),
        ("letterbox_waste", wasteful, _percent(waste) + " border, " + size, -waste),
    ]


def _light_criteria(facts: pd.DataFrame, audit: AuditSettings) -> list[Criterion]:
    """Find outliers of light and sharpness; a constant image is that and nothing else."""
    constant = facts["range"] <= CONSTANT_RANGE
    seen, limit = ~constant, audit.outlier_deviations
    brightness = facts["brightness"].round().astype(int).astype(str)
    light = deviations(facts["brightness"], seen, LEAST_BRIGHTNESS_DEVIATION)
    dark = seen & ((light < -limit) | (facts["brightest"] < UNLIT))
    bright = seen & ((light > limit) | (facts["darkest"] > WASHED_OUT))
    lit = "mean brightness " + brightness + f" of 255, usual is {facts['brightness'].median():.0f}"
    blur = deviations(np.log2(facts["sharpness"].clip(lower=1e-3)), seen, LEAST_SHARPNESS_DEVIATION)
    share = facts["sharpness"] / max(facts["sharpness"].median(), 1e-6)
    return [
        ("constant", constant, "brightness " + brightness + " everywhere", facts["range"]),
        ("dark", dark, lit, light),
        ("bright", bright, lit, -light),
        ("blurred", seen & (blur < -limit), _percent(share) + " of the usual sharpness", blur),
    ]


def deviations(values: pd.Series, among: pd.Series, least: float) -> pd.Series:
    """Measure the distance from the median of `among` in robust standard deviations."""
    usual = values[among]
    median = usual.median() if len(usual) else 0.0
    spread = MAD_TO_DEVIATION * (usual - median).abs().median() if len(usual) else 0.0
    return (values - median) / max(spread, least)


def _percent(share: pd.Series) -> pd.Series:
    return (100 * share).round().astype(int).astype(str) + " %"


def judge_labels(
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


def _judge_class(row: dict, audit: AuditSettings, findings: Findings) -> None:
    name, split, positives, images = row["class"], row["split"], row["positives"], row["images"]
    if positives == 0:
        detail = f"class {name!r} has no positive among the {images} images of {split}"
        severity = "error" if split == "train" else "warning"
        findings.add_general("class_missing", split, detail, severity)
    elif split == "val" and min(positives, images - positives) < audit.min_positives:
        detail = (
            f"class {name!r}: {positives} positives and {images - positives} negatives in val, one "
            f"below audit.min_positives {audit.min_positives}: too few to tune its threshold on"
        )
        findings.add_general("class_too_small", split, detail)
    if 0 < images == positives:
        detail = f"class {name!r} is true of all {images} images of {split}: nothing to learn"
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

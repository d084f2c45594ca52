"""What a reader must know beside the figures, said again."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from typing import Any

from .answers import in_floats
from .arithmetic import NEVER, Tree
from .folder import Bundle
from .names import AUDIT, LADDER, METRICS, PARITY, RECOMMENDATION, RUN, TEACHER


def cautions(bundle: Bundle) -> list[str]:
    """Say again what a reader must know beside the figures."""
    lines, test = [], bundle.json(METRICS)["test"]["classes"]
    tuned = bundle.json(RECOMMENDATION) if bundle.config["task"] == "multilabel" else {}
    if bundle.has(AUDIT):
        lines += _audit_errors(csv.DictReader(io.StringIO(bundle.bytes(AUDIT).decode("utf-8"))))
    quantized = not in_floats(bundle.config)
    if quantized and bundle.has(TEACHER) and bundle.settings["distillation"]["enabled"]:
        lines += _teacher(bundle.json(TEACHER))
    if quantized and bundle.has(LADDER):
        ladder = bundle.json(LADDER)
        shipped = next(row for row in ladder["rungs"] if row["rung"] == ladder["chosen"])
        if ladder["chosen"] != "qat" or ladder["budget"] != "within":
            lines.append(f"the phone file is {shipped['title']}: {shipped['reason']}")
    lost = bundle.json(PARITY)["rungs"] if bundle.has(PARITY) else ()
    lines += [f'parity is lost at "{row["name"]}", and no other file was left: {row["verdict"]}'
              for row in lost if row["verdict"]]  # fmt: skip
    tuned = tuned.get("classes", ())
    lines += _named("absent from val, so nobody tuned them",
                    [row["name"] for row in tuned if not row["positives"]])  # fmt: skip
    lines += _named("absent from test, so nobody judged them",
                    [row["class"] for row in test if not row["positives"]])  # fmt: skip
    for word, integer in (("always", -128), ("never", NEVER)):
        names = {row["name"]: None for row in tuned if row["integer"] == integer}
        for row in test:
            said, known = row["tp"] + row["fp"], row["positives"] + row["negatives"]
            every = known and said == known
            if every if word == "always" else row["positives"] and not said:
                names[row["class"]] = None
        lines += _named(f"the answer is {word} yes", list(names))
    opened = bundle.json(RUN).get("test_split", {"opened": 0})["opened"] if bundle.has(RUN) else 0
    if opened > 1:
        lines.append(f"the test split was opened {opened} times by this run: what was changed in "
                     "between may have been chosen on it")  # fmt: skip
    return lines


def _named(what: str, names: list[str]) -> list[str]:
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return [f"{what}: {', '.join(names[:10])}{more}"] if names else []


def _audit_errors(rows: Any) -> Iterator[str]:
    errors = [row for row in rows if row["severity"] == "error"]
    kinds = Counter(row["kind"] for row in errors).most_common()
    for kind, count in kinds[:3]:
        first = next(row for row in errors if row["kind"] == kind)
        where = " ".join(part for part in (first["split"], first["image"]) if part)
        more = f" (and {count - 1} more)" if count > 1 else ""
        yield f"the audit found {kind}: {where}: {first['detail']}{more}"
    if len(kinds) > 3:
        yield f"the audit found {sum(n for _, n in kinds[3:])} more errors, see audit.csv"


def _teacher(found: Tree) -> Iterator[str]:
    ends, other = found["interval"], found["other"]
    if ends is None or found["difference"] is None:
        yield f"teacher against {other}: F1 macro cannot be compared on these images"
    elif ends[0] <= 0:
        yield (
            f"teacher against {other}: F1 macro {found['teacher_f1']:.3f} against "
            f"{found['other_f1']:.3f}, {found['difference']:+.3f} ({ends[0]:+.3f} to "
            f"{ends[1]:+.3f}) on {found['images']} validation images: it is not clearly better, so "
            "it cannot teach. Train it longer or on larger images, or set "
            "distillation.enabled: false"
        )

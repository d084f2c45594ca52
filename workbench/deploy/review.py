"""A reviewer's signature: a verdict on the very bytes that were looked at, beside the run.

It lies outside the seal, which it names: whoever computes the run anew has to ask again, and
`verify` says so.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, ValidationError

from workbench.artifacts import Artifact, Sha256
from workbench.deploy import verify
from workbench.errors import InputError, MissingInputError
from workbench.files import sha256, write_json

Verdict = Literal["ready", "with care", "not ready"]
PRINTABLE = r"^[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]*$"  # nothing that redraws a terminal
Words = Annotated[str, Field(max_length=2000, pattern=PRINTABLE)]
LOOKED_AT = (verify.SUMS, *verify.MODELS, verify.CONFIG, verify.RECOMMENDATION, verify.METRICS,
             verify.PAGE_06, verify.PAGE_09, verify.INDEX)  # fmt: skip


class Review(Artifact):
    """Who says what of which files."""

    file: ClassVar[str] = verify.REVIEW
    notebook: ClassVar[str] = "python -m workbench review RUN"

    schema_version: Literal[1] = Field(1, alias="schema")
    verdict: Verdict
    name: Annotated[Words, Field(min_length=1)]
    note: Words = ""
    when: str
    reviewed: dict[str, Sha256]


def sign(folder: Path, verdict: str, name: str, note: str = "") -> str:
    """Keep a reviewer's verdict on a sealed run that agrees with itself, and say so."""
    if not (folder / verify.SUMS).exists():
        raise MissingInputError(
            f"{folder} is not sealed: a review is of a whole run. "
            f"Run python -m workbench run --run {folder.name} first"
        )
    checked = verify.verify(folder, [one for one in verify.CHECKS if one[0] != "review"])
    if not checked.passed:
        failed = next(check for check in checked.checks if check.passed is False)
        raise InputError(
            f"{folder} does not agree with itself ({failed.name}: {failed.detail}); nothing can be "
            f"signed. Compute it anew: python -m workbench run --run {folder.name}"
        )
    found = {one: sha256(folder / one) for one in LOOKED_AT if (folder / one).is_file()}
    when = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        review = Review(verdict=verdict, name=name.strip(), note=note.strip(), when=when,
                        reviewed=found)  # fmt: skip
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{first['loc'][0]} is {first['input']!r}: {first['msg']}") from None
    write_json(folder / Review.file, review.to_json())
    return (f'{review.name} signed {len(found)} files of {folder.name}: "{review.verdict}". '
            f"{verify.REVIEW} keeps it, and `verify` tells when they change.")  # fmt: skip

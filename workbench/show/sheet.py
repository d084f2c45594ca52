"""Draw the sheet of notebook 02: one row an image, from the file to both networks."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from workbench.data.sheet import SheetRow

SIDE_INCHES = 1.5


def sample_sheet(rows: Sequence[SheetRow]) -> Figure:
    """Draw every row; the last two columns are what teacher and student get."""
    columns = 3 + len(rows[0].augmented)
    figure = Figure(figsize=(SIDE_INCHES * columns, SIDE_INCHES * len(rows)), layout="tight")
    heads = ["as read", *_epochs(rows[0]), "teacher", "student"]
    for number, row in enumerate(rows):
        pictures = [row.original, *row.augmented, row.teacher, row.student]
        for place, picture in enumerate(pictures):
            ax = figure.add_subplot(len(rows), columns, number * columns + place + 1)
            ax.imshow(picture)
            ax.set_axis_off()
            if number == 0:
                ax.set_title(heads[place], fontsize=9)
    figure.set_label(f"{len(rows)} images as read, augmented, and as both networks see them")
    return figure


def _epochs(row: SheetRow) -> list[str]:
    return [f"epoch {number}" for number in range(1, len(row.augmented) + 1)]

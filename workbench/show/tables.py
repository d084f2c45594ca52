"""Tables in notebooks and reports: every cell is text, whatever it is called."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Table:
    """A DataFrame that shows itself as plain, escaped HTML, and as text where HTML is not."""

    frame: pd.DataFrame
    index: bool = False

    def _repr_html_(self) -> str:
        return self.frame.to_html(
            index=self.index, escape=True, border=0, classes="frame", na_rep="–",
            float_format=lambda value: f"{value:.3f}",
        )  # fmt: skip

    def __repr__(self) -> str:
        return self.frame.to_string(index=self.index, na_rep="–")


def table(rows: pd.DataFrame | dict | list, index: bool = False) -> Table:
    """Show a DataFrame, a mapping of names to values, or a list of rows."""
    if isinstance(rows, dict):
        rows = pd.DataFrame({"name": list(rows), "value": [str(value) for value in rows.values()]})
    return Table(pd.DataFrame(rows), index)

"""The 84 faults that must be survived, listed in data/faults.txt with the tests that show them.

Each named test carries its numbers: `test_tables.py::test_a_class_name_…[fault 9-NA]`.
`python -m tests.faults [N…]` runs them and prints the table; `make test OPTIONS="--faults FILE"`
writes it into a file on the way. Expected everywhere: words that name file and row or key, the
documented exit code, no half-written file, nothing lost.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pytest


class Fault(NamedTuple):
    case: str
    expected: str
    tests: tuple[str, ...]


def read_faults() -> dict[int, Fault]:
    found: dict[int, Fault] = {}
    for line in LIST.read_text(encoding="utf-8").splitlines():
        if line.startswith("    "):
            file, name = line.split()
            last = found[len(found)]
            found[len(found)] = last._replace(tests=(*last.tests, f"test_{file}.py::test_{name}"))
        elif line[:1].isdigit():
            number, words = line.split(" ", 1)
            case, expected = words.split(" => ")
            found[int(number)] = Fault(case, expected, ())
    return found


LIST = Path(__file__).parent / "data/faults.txt"
FAULTS = read_faults()


def numbers_of(test: str) -> list[int]:
    """List the faults that a test shows, given as file::name."""
    return [number for number, fault in FAULTS.items() if test in fault.tests]


class Table:
    """What became of the tests of each fault, gathered from the reports of one run."""

    def __init__(self) -> None:
        self.seen: dict[int, Counter[str]] = defaultdict(Counter)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or (report.when == "setup" and report.outcome != "passed"):
            test = report.nodeid.split("[")[0].rpartition("/")[2]
            for number in numbers_of(test):
                self.seen[number][report.outcome] += 1

    def text(self) -> str:
        rows = [
            f"| {number} | {_cell(fault.case)} | {_cell(fault.expected)} | {self._seen(number)} |"
            for number, fault in FAULTS.items()
        ]
        shown = sum(self._holds(number) for number in FAULTS)
        head = f"{shown} of {len(FAULTS)} faults are survived as expected.\n\n"
        return head + "\n".join(["| | case | expected | seen |", "|---|---|---|---|", *rows]) + "\n"

    def _holds(self, number: int) -> bool:
        return self.seen[number]["passed"] > 0 and not self.seen[number]["failed"]

    def _seen(self, number: int) -> str:
        words = ", ".join(f"{count} {outcome}" for outcome, count in self.seen[number].items())
        return words or "not run"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def main(numbers: Iterable[str]) -> int:
    wanted = {int(number) for number in numbers} or set(FAULTS)
    tests = {f"tests/{test}" for number in wanted for test in FAULTS[number].tests}
    table = Table()
    code = pytest.main(["-q", "-p", "no:warnings", *sorted(tests)], plugins=[table])
    sys.stdout.write(table.text())
    return int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

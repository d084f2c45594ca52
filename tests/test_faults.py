"""The list of faults: it is whole, and its tests exist and carry their numbers."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.faults import FAULTS, Table

HERE = Path(__file__).parent


@cache
def functions(file: str) -> frozenset[str]:
    tree = ast.parse((HERE / file).read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def test_there_are_84_faults():
    assert list(FAULTS) == list(range(1, 85))


@pytest.mark.parametrize("number", FAULTS)
def test_a_fault_has_tests(number):
    named = [test.split("::") for test in FAULTS[number].tests]
    assert named
    assert [f"{file}::{name}" for file, name in named if name not in functions(file)] == []


def test_a_test_carries_the_numbers_of_its_faults():
    words = [sys.executable, "-m", "pytest", "--collect-only", "tests/test_lock.py"]
    done = subprocess.run(words, cwd=HERE.parent, capture_output=True, text=True)
    named = [line for line in done.stdout.splitlines() if "[fault 53]" in line]
    assert len(named) == 2, done.stdout + done.stderr


def test_the_table_counts_what_became_of_the_tests():
    report = SimpleNamespace(
        nodeid=f"tests/{FAULTS[53].tests[0]}[fault 53]",
        when="call", outcome="passed",
    )  # fmt: skip
    table = Table()
    assert table.text().startswith("0 of 84")
    table.pytest_runtest_logreport(report)
    assert table.text().startswith("1 of 84") and "| 1 passed |" in table.text()
    report.outcome = "failed"
    table.pytest_runtest_logreport(report)
    assert table.text().startswith("0 of 84") and "| 1 passed, 1 failed |" in table.text()


def test_every_test_that_security_names_is_there():
    text = (HERE.parent / "SECURITY.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w./]+)`", text)
    assert len(named) > 10
    assert [name for name in named if not (HERE.parent / name).is_file()] == []

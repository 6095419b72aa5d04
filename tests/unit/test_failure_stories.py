"""The tests that docs/failure-stories.md and docs/faults.md name are there, and every row is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = {"failure-stories.md": [f"L{number}" for number in range(1, 36)], "faults.md": [f"F{n}" for n in range(1, 36)]}


def read(page: str) -> str:
    return (ROOT / "docs" / page).read_text()


@pytest.mark.parametrize("page", PAGES)
def test_every_test_that_a_page_names_exists(page: str) -> None:
    text = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    names = set(re.findall(r"`(test_\w+)`", read(page)))
    defined = set(re.findall(r"def (test_\w+)\(", text))
    assert names - defined == set()


@pytest.mark.parametrize("page", PAGES)
def test_every_row_is_there_and_names_a_test(page: str) -> None:
    rows = re.findall(r"^\| ([LF]\d+) \|.*\| (.*) \|$", read(page), re.MULTILINE)
    assert sorted((number for number, _ in rows), key=lambda number: int(number[1:])) == PAGES[page]
    assert [number for number, tests in rows if "`test_" not in tests and "not yet" not in tests] == []

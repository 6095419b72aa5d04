"""The tests that docs/failure-stories.md names are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_test_that_a_story_names_exists() -> None:
    text = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    names = re.findall(r"`(test_\w+)`", (ROOT / "docs" / "failure-stories.md").read_text())
    missing = [name for name in names if f"def {name}" not in text and f"{name} =" not in text]
    assert not missing


def test_every_story_has_its_row() -> None:
    rows = re.findall(r"^\| (L\d+) \|", (ROOT / "docs" / "failure-stories.md").read_text(), re.MULTILINE)
    assert rows == [f"L{number}" for number in range(1, 36)]

"""docs/command-line.md is what the commands say of themselves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from app.cli_page import page

PAGE = Path(__file__).parents[2] / "docs" / "command-line.md"


def test_the_page_is_what_the_commands_say() -> None:
    made = subprocess.run([sys.executable, "-m", "app.cli_page"], capture_output=True, text=True, check=True)
    assert PAGE.read_text(encoding="utf-8") == made.stdout, "run: make docs"


def test_every_command_is_on_the_page() -> None:
    for name in (
        "demo",
        "dev",
        "submit",
        "status",
        "watch",
        "jobs",
        "cancel",
        "retry",
        "migrate",
        "run-handler",
        "doctor",
    ):
        assert f"## geoworker {name}\n" in page()

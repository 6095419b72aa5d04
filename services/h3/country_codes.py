"""Which countries there are. Light: asked when a job is submitted, before any array library is loaded."""

from __future__ import annotations

import difflib
import json
from functools import cache
from importlib import resources
from typing import Any

WORLD_LAND = "LAND"


@cache
def index() -> dict[str, Any]:
    """``land``: polygons of all land; ``countries``: name and polygons by code. Polygons are rings of line numbers."""
    text = resources.files(__package__).joinpath("data", "countries_10m.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def codes() -> list[str]:
    """The ISO 3166 alpha-3 codes there are, sorted."""
    return list(index()["countries"])


def checked(code: str) -> str:
    """The code in upper case.

    Raises:
        ValueError: when there is none, with the closest ones.
    """
    wanted = code.strip().upper()
    if wanted == WORLD_LAND or wanted in index()["countries"]:
        return wanted
    raise ValueError(f"{code!r} is no ISO 3166 alpha-3 code of this dataset, nor {WORLD_LAND}{_hint(code)}")


def _hint(code: str) -> str:
    names = {entry["name"].lower(): known for known, entry in index()["countries"].items()}
    close = difflib.get_close_matches(code.strip().lower(), [*names, *map(str.lower, codes())], n=3, cutoff=0.6)
    found = dict.fromkeys(names.get(text, text.upper()) for text in close)
    return f"; did you mean {' or '.join(found)}?" if found else ""

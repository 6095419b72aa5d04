"""SQL lives in ``sql/*.sql``, one block a query under a ``-- name: x`` heading.

A line ``-- include: x`` stands for the block of that name in the same file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import LiteralString

_HEADING = re.compile(r"^-- name: (\w+)\s*$", re.MULTILINE)
_INCLUDE = re.compile(r"^-- include: (\w+)\s*$", re.MULTILINE)


@cache
def queries(file: str) -> Mapping[str, LiteralString]:
    """The named queries of ``sql/<file>.sql``."""
    text = resources.files(__package__).joinpath("sql", f"{file}.sql").read_text(encoding="utf-8")
    parts = _HEADING.split(text)
    blocks = {name: body.strip() for name, body in zip(parts[1::2], parts[2::2], strict=True)}
    return {name: _INCLUDE.sub(lambda found: blocks[found[1]], body) for name, body in blocks.items()}

"""The static files of the package, each at an address that has a digest of its content."""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
from dataclasses import dataclass
from functools import cache
from importlib import resources

from app.dashboard.worldmap import world_svg

_FILES = frozenset({"dashboard.css", "live.js", "morph.js", "actions.js", "times.js", "favicon.svg"})


@dataclass(frozen=True, slots=True)
class Asset:
    """A file as it is and compressed."""

    plain: bytes
    packed: bytes
    media_type: str
    digest: str


@cache
def asset(name: str) -> Asset | None:
    """The file of that name, or None."""
    if name == "world.svg":
        plain = world_svg()
    elif name in _FILES:
        plain = resources.files(__package__).joinpath("static", name).read_bytes()
    else:
        return None
    return Asset(
        plain,
        gzip.compress(plain, mtime=0),
        mimetypes.guess_type(name)[0] or "application/octet-stream",
        hashlib.sha256(plain).hexdigest()[:12],
    )


def static_url(name: str) -> str:
    """The address of a file.

    Raises:
        KeyError: when there is no such file.
    """
    found = asset(name)
    if found is None:
        raise KeyError(name)
    return f"/static/{found.digest}/{name}"

"""Jinja with everything escaped, and the few filters that pages need."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from app.dashboard.assets import static_url

SHOWN_CHARACTERS = 4_000
SHORT_ID = 10


@cache
def environment() -> Environment:
    """The templates of this package. Autoescape is on for every one of them."""
    made = Environment(
        loader=PackageLoader("app.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.do"],
    )
    made.filters.update(
        duration=duration,
        size=size,
        count=count,
        quantity=quantity,
        moment=moment,
        short=short,
        words=words,
        pretty=pretty,
        clipped=clipped,
        isolated=isolated,
    )
    made.globals["static"] = static_url
    return made


def duration(seconds: float | None) -> str:
    """``0.4 s``, ``12 s``, ``3 min 05 s``, ``2 h 10 min``, ``3 d 4 h``."""
    if seconds is None:
        return "\u2013"
    seconds = max(0.0, seconds)
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def size(value: float | None) -> str:
    """Bytes in decimal units."""
    if value is None:
        return "\u2013"
    for factor, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= factor:
            return f"{value / factor:.1f} {unit}"
    return f"{value:.0f} B"


def count(value: int) -> str:
    """A whole number with thousands set apart by narrow spaces."""
    return f"{value:,}".replace(",", "\u202f")


def quantity(value: float) -> str:
    """A rate or amount in three figures."""
    for factor, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {suffix}"
    return f"{value:.3g} "


def moment(value: datetime | None) -> Markup:
    """A moment as a ``time`` element in UTC; the page's script shows how long ago it was."""
    if value is None:
        return Markup("\u2013")
    utc = value.astimezone(UTC)
    return Markup('<time datetime="{}">{}</time>').format(
        utc.isoformat(timespec="milliseconds"), utc.strftime("%Y-%m-%d %H:%M:%S UTC")
    )


def short(identifier: str | None) -> str:
    """The first characters of an id."""
    return (identifier or "")[:SHORT_ID]


def words(name: str) -> str:
    """``completed_with_errors`` as words."""
    return name.replace("_", " ")


def pretty(value: Any) -> str:
    """JSON, indented; text in it stays readable."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def clipped(text: str, characters: int = SHOWN_CHARACTERS) -> str:
    """The beginning of a long text."""
    return text if len(text) <= characters else text[:characters] + "…"


def isolated(text: str | None) -> Markup:
    """Text from elsewhere: escaped, and kept from turning the direction of what stands around it."""
    return Markup("<bdi>{}</bdi>").format(escape(text or ""))


def render(template: str, context: Mapping[str, Any]) -> str:
    """A template with its values."""
    return environment().get_template(template).render(context)

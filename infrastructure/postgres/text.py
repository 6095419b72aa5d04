"""Text on its way to PostgreSQL, which has no NUL character and no lone surrogates."""

from __future__ import annotations

import psycopg
from psycopg.abc import Buffer
from psycopg.types.string import StrDumperUnknown

from infrastructure.json_text import clean


class CleanTextDumper(StrDumperUnknown):
    """Replaces what text columns cannot hold by U+FFFD, so that no id and no foreign error text breaks a statement."""

    def dump(self, obj: str) -> Buffer | None:
        return super().dump(clean(obj))


def clean_text(connection: psycopg.Connection[object]) -> None:
    """Use the dumper for every text parameter of ``connection``."""
    connection.adapters.register_dumper(str, CleanTextDumper)

"""Schema changes: numbered .sql files applied once each under an advisory lock, then the transition guards.

Rules for authors: never edit an applied file (its checksum is kept and compared), and keep each change usable by the
previous release, so that two versions can run side by side during an upgrade.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from core.errors import ConfigurationError, Fault
from infrastructure.postgres.database import Connection, Database
from infrastructure.postgres.guards import GUARDS

_LOCK_KEY = 0x67656F77  # "geow"


@dataclass(frozen=True, slots=True)
class Migration:
    """A numbered file and the SHA-256 of its text."""

    name: str
    text: str

    @property
    def checksum(self) -> str:
        """SHA-256 (hex) of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def available() -> Sequence[Migration]:
    """The migrations that ship with this version, in order."""
    folder = resources.files(__package__).joinpath("migrations")
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return [Migration(name.removesuffix(".sql"), folder.joinpath(name).read_text(encoding="utf-8")) for name in names]


def migrate(database: Database) -> Sequence[str]:
    """Apply what is missing and return the names; safe to run from several processes at once.

    Raises:
        ConfigurationError: when an applied migration differs from the file of the same name.
        StoreUnavailable: when the database cannot be reached.
    """
    return database.run(_migrate)


def pending(database: Database) -> Sequence[str]:
    """The names of migrations that are not applied yet."""

    def work(connection: Connection) -> Sequence[str]:
        exists = connection.execute("SELECT to_regclass('app.schema_migrations') IS NOT NULL AS yes").fetchone()
        if exists is None or not exists["yes"]:
            return [migration.name for migration in available()]
        return [migration.name for migration in available() if migration.name not in _applied(connection)]

    return database.run(work)


def _migrate(connection: Connection) -> Sequence[str]:
    done: list[str] = []
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK_KEY])
        connection.execute("CREATE SCHEMA IF NOT EXISTS app")
        connection.execute(
            """CREATE TABLE IF NOT EXISTS app.schema_migrations (
                   name text PRIMARY KEY, checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"""
        )
        applied = _applied(connection)
        for migration in available():
            if migration.name not in applied:
                connection.execute(migration.text.encode())
                connection.execute(
                    "INSERT INTO app.schema_migrations (name, checksum) VALUES (%s, %s)",
                    [migration.name, migration.checksum],
                )
                done.append(migration.name)
            elif applied[migration.name] != migration.checksum:
                raise ConfigurationError(
                    "database schema",
                    [Fault(migration.name, "was applied with another content than this version ships")],
                )
        for guard in GUARDS:
            guard.put_up(connection)
    return done


def _applied(connection: Connection) -> dict[str, str]:
    rows = connection.execute("SELECT name, checksum FROM app.schema_migrations").fetchall()
    return {row["name"]: row["checksum"] for row in rows}

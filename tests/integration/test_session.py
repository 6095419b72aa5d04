"""The command line's way to the database."""

from __future__ import annotations

import pytest

from app.session import open_session
from app.settings import Settings
from infrastructure import credentials


def test_commands_use_an_entra_token_as_the_password(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def token() -> str:
        asked.append("token")
        return "a-token"

    monkeypatch.setattr(credentials, "entra_database_password", lambda: token)
    settings = Settings.from_env({"DATABASE_URL": database_url, "DATABASE_ENTRA_AUTH": "true"})
    with open_session(settings, apply_migrations=False) as session:
        assert session.database.row("SELECT 1 AS one") == {"one": 1}
    assert asked

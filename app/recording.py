"""Keeping who did what: the same record for pages, API and command line."""

from __future__ import annotations

import getpass
import logging
from typing import Any

from starlette.requests import Request

from core.errors import StoreUnavailable
from infrastructure.postgres.action_store import Action, PostgresActionStore, Via
from infrastructure.postgres.database import Database

logger = logging.getLogger(__name__)


def record(store: PostgresActionStore, action: Action) -> None:
    """Keep an action that was done. When the store went away since, the log keeps it: what was done stays done."""
    try:
        store.record(action)
    except StoreUnavailable:
        logger.exception(
            "an action could not be recorded: %s by %s on %s %s",
            action.action,
            action.actor,
            action.job_id,
            action.target,
            extra={"action": "action.unrecorded"},
        )


def record_call(store: PostgresActionStore, request: Request, action: str, **facts: Any) -> None:
    """Keep what a caller of the API did."""
    record(store, Action(actor=request.state.caller.name, via=Via.API, action=action, **facts))


def record_command(database: Database, action: str, **facts: Any) -> None:
    """Keep what a user of this machine did on the command line."""
    record(PostgresActionStore(database), Action(actor=_user(), via=Via.CLI, action=action, **facts))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown"

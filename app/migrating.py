"""Migrations at a process's start, when the database is there and when it is not yet."""

from __future__ import annotations

import logging
import threading
import time

from app.composition import Application
from core.errors import StoreUnavailable
from infrastructure.postgres.migrations import migrate

logger = logging.getLogger(__name__)


def migrate_when_reachable(application: Application) -> None:
    """Apply migrations; a database that is away is no reason not to start: readiness says so, and loops wait."""
    try:
        migrate(application.database)
    except StoreUnavailable as error:
        logger.warning("the database cannot be reached yet: %s", error, extra={"action": "database.away"})
        threading.Thread(target=_migrate_later, args=[application], name="migrate", daemon=True).start()


def _migrate_later(application: Application) -> None:
    while not application.lifecycle.is_shutting_down:
        try:
            migrate(application.database)
        except StoreUnavailable:
            time.sleep(1.0)
        else:
            logger.info("the database is reachable", extra={"action": "database.back"})
            return

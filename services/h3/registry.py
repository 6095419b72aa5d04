"""The handlers and jobs of the H3 services, for the project's registry."""

from __future__ import annotations

from services.h3.handlers import HANDLERS
from services.h3.jobs import JOBS

__all__ = ["HANDLERS", "JOBS"]

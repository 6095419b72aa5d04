"""How a long step tells of its progress and hears that it should stop."""

from __future__ import annotations

from core.docker_context import DockerTaskContext

_BEFORE_THE_END = 99.0


class StopRequested(Exception):
    """The task was asked to stop in the middle of a step; what the step had begun is removed."""


class Watch:
    """Counts pixels over all passes of a step, reports them, and stops the step when the task should stop.

    The last percent is for what follows the pixels.
    """

    def __init__(self, context: DockerTaskContext, *, total_pixels: int) -> None:
        self._context = context
        self._total = max(1, total_pixels)
        self._done = 0

    def advance(self, pixels: int, message: str) -> None:
        """``pixels`` more are done.

        Raises:
            StopRequested: when the task was asked to stop.
        """
        self._done = min(self._total, self._done + pixels)
        percent = min(_BEFORE_THE_END, 100.0 * self._done / self._total)
        self._context.report_progress(percent, message, done=self._done, total=self._total, unit="pixels")
        self.check()

    def check(self) -> None:
        """Raise StopRequested when the task was asked to stop."""
        if self._context.should_stop():
            raise StopRequested

"""Sends committed messages: right after their commit (fast path), and by sweeping the outbox for what was left.

Decide, commit, then speak: an entry is written in the transaction that caused it, sent after that commit, and marked as
sent after the transport took it. Dying in either gap sends the message again, which is harmless.
"""

from __future__ import annotations

import logging
import random
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from core.dispatch import Dispatcher, Refused, Sent, TryAgain
from core.errors import ErrorInfo, StoreUnavailable
from core.messages import Channel, TaskMessage
from core.ports import OutboxStore, StateStore
from core.records import OutboxEntry
from core.retry import Backoff

logger = logging.getLogger(__name__)

_BATCH = 500
_MARK_NOW = 5_000
STOP_SECONDS = 3.0


@dataclass(slots=True)
class RelayStatus:
    """Figures for health and metrics."""

    sent: int = 0
    failed: int = 0
    given_up: int = 0
    unmarked: int = 0
    last_error: str | None = None
    last_sweep_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayOptions:
    """How often the outbox is swept, how long a swept entry is held, and when a send is given up.

    ``spacing`` is the least time between two looks, however often the relay is woken. ``hold`` must be longer than the
    dispatcher takes for a ``batch``, or a second relay sends what the first one is sending.
    """

    name: str = "relay"
    poll: timedelta = timedelta(seconds=1)
    spacing: timedelta = timedelta(0)
    batch: int = _BATCH
    hold: timedelta = timedelta(seconds=30)
    backoff: Backoff = field(default_factory=lambda: Backoff(base=timedelta(seconds=1), cap=timedelta(minutes=5)))
    max_age: Mapping[Channel, timedelta] = field(default_factory=dict)


class Relay:
    """The MessagePublisher port. Relays only the channels it has a dispatcher for."""

    def __init__(
        self,
        outbox: OutboxStore,
        store: StateStore,
        routes: Mapping[Channel, Dispatcher],
        options: RelayOptions | None = None,
        rng: random.Random | None = None,
        *,
        status: RelayStatus | None = None,
    ) -> None:
        self._outbox = outbox
        self._store = store
        self._routes = dict(routes)
        self._options = options or RelayOptions()
        self._rng = rng or random.Random()  # noqa: S311 - jitter
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._to_mark: list[int] = []
        self._status = status or RelayStatus()
        self._thread: threading.Thread | None = None
        self.onward = self.publish  # where messages go that giving one up causes

    @property
    def status(self) -> RelayStatus:
        """Figures so far."""
        self._status.unmarked = len(self._to_mark)
        return self._status

    def publish(self, entries: Sequence[OutboxEntry]) -> None:
        """Send entries that were just committed. Never fails: what cannot be sent stays in the outbox."""
        if entries:
            self._send(entries)
        if not entries or len(self._to_mark) >= _MARK_NOW:
            self.wake()  # fewer wait for the next poll: marking slows the work, and many tasks have begun by then

    def start(self) -> None:
        """Sweep the outbox in a thread until :meth:`stop`."""
        thread = threading.Thread(target=self._run, name=self._options.name, daemon=True)
        thread.start()
        self._thread = thread

    def wake(self) -> None:
        """Have the thread look into the outbox soon."""
        self._wake.set()

    def stop_soon(self) -> None:
        """Ask the thread to end; returns at once."""
        self._stopping.set()
        self._wake.set()

    def stop(self, timeout: float = STOP_SECONDS) -> None:
        """Send what is due, mark what was sent, and end the thread, within ``timeout`` seconds. Idempotent.

        What cannot be sent in that time stays in the outbox for another process.
        """
        self.stop_soon()
        if self._thread is None:
            self._flush_at_stop()
            return
        self._thread.join(timeout)
        if self._thread.is_alive():
            logger.warning("the outbox could not be flushed in time at stop", extra={"action": "relay.unflushed"})
        self._thread = None

    def _flush_at_stop(self) -> None:
        try:
            self.flush()
        except StoreUnavailable as error:
            logger.warning("the outbox could not be flushed at stop: %s", error, extra={"action": "relay.unflushed"})

    def flush(self) -> int:
        """Send all that is due now; returns how many entries were taken.

        Raises:
            StoreUnavailable: when the outbox cannot be reached.
        """
        self._mark()
        taken = 0
        batch = self._options.batch
        while entries := self._outbox.take(self._routes, limit=batch, hold=self._options.hold):
            taken += len(entries)
            self._send(entries)
            self._mark()
            if len(entries) < batch:
                break
        self._status.last_sweep_at = datetime.now(UTC)
        return taken

    def _run(self) -> None:
        poll = self._options.poll.total_seconds()
        while not self._stopping.is_set():
            try:
                self._mark()
                due_in = self._outbox.next_due(self._routes)
                if due_in is not None and due_in <= timedelta(0):
                    self.flush()
                    continue
                pause = poll if due_in is None else min(poll, due_in.total_seconds())
            except StoreUnavailable as error:
                self._status.last_error = str(error)
                pause = poll
            except Exception as error:  # the relay outlives whatever a dispatcher does
                self._status.last_error = f"{type(error).__name__}: {error}"
                if not self._stopping.is_set():
                    logger.exception("the relay caught an error", extra={"action": "relay.error"})
                pause = poll
            self._wake.wait(max(pause, 0.001))
            self._stopping.wait(self._options.spacing.total_seconds())
            self._wake.clear()
        self._flush_at_stop()

    def _send(self, entries: Sequence[OutboxEntry]) -> None:
        by_channel: dict[Channel, list[OutboxEntry]] = defaultdict(list)
        for entry in entries:
            by_channel[entry.channel].append(entry)
        for channel, group in by_channel.items():
            results = self._routes[channel].dispatch([entry.message for entry in group])
            unsent = [result.error for result in results if isinstance(result, TryAgain)]
            if unsent:  # one line for them all: a broken transport must not fill the log
                logger.warning(
                    "%d of %d messages not sent, tried again later: %s",
                    len(unsent),
                    len(group),
                    unsent[0],
                    extra={"action": "relay.unsent", "channel": str(channel)},
                )
            for entry, result in zip(group, results, strict=True):
                match result:
                    case Sent():
                        self._status.sent += 1
                        with self._lock:
                            self._to_mark.append(entry.entry_id)
                    case TryAgain(error=error, after=after):
                        self._put_off(entry, error, after)
                    case Refused(error=error):
                        self._give_up(entry, error)

    def _put_off(self, entry: OutboxEntry, error: str, after: timedelta | None) -> None:
        self._status.failed += 1
        self._status.last_error = error
        max_age = self._options.max_age.get(entry.channel)
        if max_age is not None and entry.created_at is not None and datetime.now(UTC) - entry.created_at > max_age:
            self._give_up(entry, error)
            return
        delay = max(after or timedelta(0), self._options.backoff.delay(entry.tries + 1, self._rng))
        self._note(entry, error, delay)

    def _give_up(self, entry: OutboxEntry, error: str) -> None:
        self._status.given_up += 1
        self._status.last_error = error
        logger.error(
            "message given up: %s",
            error,
            extra={"action": "relay.given_up", "entry_id": entry.entry_id, "channel": str(entry.channel)},
        )
        self._note(entry, error, None)
        if isinstance(entry.message, TaskMessage):
            info = ErrorInfo(type="Undeliverable", message=f"the worker refused the task: {error}", retryable=False)
            try:
                commit = self._store.fail_waiting_task(entry.message.task_id, info)
            except StoreUnavailable:
                return  # the hint is sent again later, and refused again
            self.onward(commit.messages)

    def _note(self, entry: OutboxEntry, error: str, retry_in: timedelta | None) -> None:
        try:
            self._outbox.mark_unsent(entry.entry_id, error=error, retry_in=retry_in)
        except StoreUnavailable as unavailable:
            self._status.last_error = str(unavailable)  # its hold runs out and it is taken again

    def _mark(self) -> None:
        with self._lock:
            entry_ids, self._to_mark = self._to_mark, []
        if not entry_ids:
            return
        try:
            self._outbox.mark_sent(entry_ids)
        except StoreUnavailable:
            with self._lock:
                self._to_mark += entry_ids
            raise

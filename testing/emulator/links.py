"""Links as the broker sees them: clients send into the one kind and receive from the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import uuid4

from testing.emulator.performatives import Attach, Flow, Transfer

if TYPE_CHECKING:
    from testing.emulator.queue import Entry, Queue
    from testing.emulator.session import Session

SENDER, RECEIVER = False, True
SETTLED_BY_SENDER = 1
_CREDIT = 1000


@dataclass(slots=True, eq=False)
class Link:
    """What both kinds share. ``path`` is the entity that a right is needed for; None for ``$cbs``."""

    session: Session
    attach: Attach
    path: str | None
    closing: bool = field(default=False, init=False)
    """The broker has detached it; what still comes in is dropped until the client has detached too."""

    @property
    def name(self) -> str:
        return self.attach.name

    @property
    def handle(self) -> int:
        """Both sides use the number that the client picked."""
        return self.attach.handle

    def on_detach(self) -> None:
        """The link is gone."""

    def on_flow(self, flow: Flow) -> None:
        """The client has told its state."""


@dataclass(slots=True, eq=False)
class Inlet(Link):
    """A client sends here. ``on_message`` gets each whole transfer: its bytes, its format, and how to answer it."""

    on_message: Callable[[Inlet, Delivery], None]
    max_message_size: int
    delivery_count: int = field(default=0, init=False)
    _used: int = field(default=0, init=False)
    _first: Transfer | None = field(default=None, init=False)
    _parts: list[bytes] = field(default_factory=list, init=False)

    def open(self) -> None:
        self.delivery_count = self.attach.initial_delivery_count or 0
        self.grant()

    def grant(self) -> None:
        self._used = 0
        self.session.send_flow(handle=self.handle, delivery_count=self.delivery_count, link_credit=_CREDIT)

    def on_flow(self, flow: Flow) -> None:
        if flow.echo:
            self.session.send_flow(
                handle=self.handle, delivery_count=self.delivery_count, link_credit=_CREDIT - self._used
            )

    def on_transfer(self, transfer: Transfer, payload: bytes) -> None:
        if transfer.aborted:
            self._first, self._parts = None, []
            return
        if self._first is None:
            self._first = transfer
        self._parts.append(payload)
        if transfer.more:
            return
        first, whole = self._first, b"".join(self._parts)
        self._first, self._parts = None, []
        self.delivery_count = (self.delivery_count + 1) & 0xFFFFFFFF
        self._used += 1
        settled = bool(first.settled or transfer.settled)
        self.on_message(self, Delivery(first.delivery_id or 0, whole, first.message_format or 0, settled))
        if self._used >= _CREDIT // 2 and not self.closing:
            self.grant()


@dataclass(frozen=True, slots=True)
class Delivery:
    """One whole message from a client."""

    delivery_id: int
    payload: bytes
    message_format: int
    settled: bool


@dataclass(slots=True, eq=False)
class Outlet(Link):
    """A client receives here: what it is sent waits for its credit."""

    delivery_count: int = field(default=0, init=False)
    credit: int = field(default=0, init=False)
    _drain: bool = field(default=False, init=False)
    _waiting: deque[bytes] = field(default_factory=deque, init=False)

    def on_flow(self, flow: Flow) -> None:
        if flow.link_credit is not None:
            base = flow.delivery_count if flow.delivery_count is not None else 0
            self.credit = max(0, serial_difference(base + flow.link_credit, self.delivery_count))
        self._drain = bool(flow.drain)
        while self._waiting and self.credit > 0:
            self._transmit(uuid4().bytes, self._waiting.popleft(), settled=True)
        self.serve()
        if self._drain:
            self.delivery_count = (self.delivery_count + self.credit) & 0xFFFFFFFF
            self.credit = 0
        if self._drain or flow.echo:
            self.session.send_flow(
                handle=self.handle, delivery_count=self.delivery_count, link_credit=self.credit, drain=self._drain
            )

    def serve(self) -> None:
        """Send what the link's source has, as far as credit goes."""

    def answer(self, payload: bytes) -> None:
        """Send one settled message now, or when there is credit."""
        if self.credit > 0:
            self._transmit(uuid4().bytes, payload, settled=True)
        else:
            self._waiting.append(payload)

    def _transmit(self, tag: bytes, payload: bytes, *, settled: bool) -> int:
        self.credit -= 1
        self.delivery_count = (self.delivery_count + 1) & 0xFFFFFFFF
        return self.session.send_transfer(self.handle, tag, payload, settled=settled)


@dataclass(slots=True, eq=False)
class QueueOutlet(Outlet):
    """A receiver on a queue."""

    queue: Queue
    destructive: bool = field(init=False)

    def __post_init__(self) -> None:
        self.destructive = self.attach.snd_settle_mode == SETTLED_BY_SENDER
        self.queue.consumers.append(self)

    def wants(self) -> bool:
        return self.credit > 0 and not self.closing

    def serve(self) -> None:
        self.queue.pump()

    def deliver(self, queue: Queue, entry: Entry) -> None:
        token = entry.lock_token
        tag = uuid4().bytes_le if token is None else token.bytes_le
        delivery_id = self._transmit(tag, entry.encoded(), settled=token is None)
        if token is not None:
            self.session.hold(delivery_id, self, queue, token)

    def on_detach(self) -> None:
        if self in self.queue.consumers:
            self.queue.consumers.remove(self)


def serial_difference(later: int, earlier: int) -> int:
    """How far one 32-bit serial number is ahead of another (RFC 1982); negative when it is behind."""
    return ((later - earlier + 0x80000000) & 0xFFFFFFFF) - 0x80000000

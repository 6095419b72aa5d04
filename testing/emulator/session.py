"""A session: windows, numbering, and the deliveries that a client has not settled yet."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

from testing.emulator.conditions import DEAD_LETTER, INVALID_FIELD, UNATTACHED_HANDLE, Refusal
from testing.emulator.faults import LostAck
from testing.emulator.links import RECEIVER, SENDER, Delivery, Inlet, Link, Outlet, serial_difference
from testing.emulator.performatives import (
    Accepted,
    AmqpError,
    Begin,
    Detach,
    Disposition,
    Flow,
    Modified,
    Received,
    Record,
    Rejected,
    Released,
    Transfer,
    text,
    transfer_frame,
)
from testing.emulator.settlements import Abandon, Complete, DeadLetter, Defer, Release, Settlement

if TYPE_CHECKING:
    from testing.emulator.queue import Queue

_WINDOW = 0x7FFF
_TRANSFER_OVERHEAD = 96
_REASON, _DESCRIPTION = "DeadLetterReason", "DeadLetterErrorDescription"


class Peer(Protocol):
    """The connection below a session."""

    max_frame_size: int

    def send(self, record: Record, channel: int) -> None: ...

    def write(self, data: bytes) -> None: ...

    def take_lost_settlement_ack(self) -> LostAck | None: ...

    def reset(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Held:
    """A message that a client has locked and not settled. Once its link is detached, only the lock token settles it."""

    link: Link
    queue: Queue
    token: UUID


class Session:
    """One session. Both sides use the channel number that the client picked."""

    def __init__(self, peer: Peer, channel: int, begin: Begin) -> None:
        self.links: dict[int, Link] = {}
        self._unsettled: dict[int, Held] = {}
        self._peer = peer
        self._channel = channel
        self._next_incoming_id = begin.next_outgoing_id
        self._incoming_left = _WINDOW
        self._next_outgoing_id = 0
        self._remote_window = begin.incoming_window
        self._next_delivery_id = 0
        self._waiting: deque[bytes] = deque()

    def open(self) -> None:
        self._peer.send(
            Begin(self._channel, next_outgoing_id=0, incoming_window=_WINDOW, outgoing_window=_WINDOW, handle_max=255),
            self._channel,
        )

    def send(self, record: Record) -> None:
        self._peer.send(record, self._channel)

    def send_flow(self, **link_state: Any) -> None:
        """Tell the session's windows and, with ``handle`` and its companions, a link's credit."""
        self.send(
            Flow(
                next_incoming_id=self._next_incoming_id,
                incoming_window=self._incoming_left,
                next_outgoing_id=self._next_outgoing_id,
                outgoing_window=_WINDOW,
                **link_state,
            )
        )

    def send_transfer(self, handle: int, tag: bytes, payload: bytes, *, settled: bool) -> int:
        """Send one message in as many frames as it takes; its delivery-id."""
        delivery_id = self._next_delivery_id
        self._next_delivery_id = (delivery_id + 1) & 0xFFFFFFFF
        room = self._peer.max_frame_size - _TRANSFER_OVERHEAD
        for start in range(0, max(len(payload), 1), room):
            part = payload[start : start + room]
            more = start + room < len(payload)
            self._waiting.append(
                transfer_frame(self._channel, handle, delivery_id, tag, settled=settled, more=more, payload=part)
            )
        self._flush()
        return delivery_id

    def _flush(self) -> None:
        while self._waiting and self._remote_window > 0:
            self._peer.write(self._waiting.popleft())
            self._remote_window -= 1
            self._next_outgoing_id = (self._next_outgoing_id + 1) & 0xFFFFFFFF

    # --- what the client says

    def on_flow(self, flow: Flow) -> None:
        base = flow.next_incoming_id if flow.next_incoming_id is not None else 0
        self._remote_window = max(0, serial_difference(base + flow.incoming_window, self._next_outgoing_id))
        self._flush()
        if flow.handle is not None:
            self._link(flow.handle).on_flow(flow)
        elif flow.echo:
            self.send_flow()

    def on_transfer(self, transfer: Transfer, payload: bytes) -> None:
        self._next_incoming_id = (self._next_incoming_id + 1) & 0xFFFFFFFF
        self._incoming_left -= 1
        link = self._link(transfer.handle)
        if not isinstance(link, Inlet):
            raise Refusal(INVALID_FIELD, f"the client receives on link {link.name!r}, it cannot send there")
        if not link.closing:
            link.on_transfer(transfer, payload)
        if self._incoming_left < _WINDOW // 2:
            self._incoming_left = _WINDOW
            self.send_flow()

    def on_detach(self, detach: Detach) -> None:
        link = self.links.pop(detach.handle, None)
        if link is None:
            return
        self._leave(link)
        if not link.closing:
            self.send(Detach(detach.handle, closed=detach.closed))

    def on_disposition(self, disposition: Disposition) -> None:
        if disposition.role is not RECEIVER:
            return
        last = disposition.last if disposition.last is not None else disposition.first
        if last == disposition.first:
            named = [last] if last in self._unsettled else []
        else:
            named = [one for one in self._unsettled if disposition.first <= one <= last]
        for delivery_id in named:
            self._settle(delivery_id, disposition)

    def _settle(self, delivery_id: int, disposition: Disposition) -> None:
        if disposition.state is None or isinstance(disposition.state, Received):
            if disposition.settled:
                del self._unsettled[delivery_id]
            return
        held = self._unsettled.pop(delivery_id)
        try:
            held.queue.settle(held.token, settlement_of(disposition.state))
            outcome = _echo(disposition.state)
        except Refusal as refusal:
            outcome = Rejected(AmqpError(refusal.condition, refusal.description))
        held.queue.pump()
        if disposition.settled:
            return
        lost = self._peer.take_lost_settlement_ack()
        if lost is None:
            self.send(Disposition(SENDER, delivery_id, delivery_id, settled=True, state=outcome))
        elif lost.drop_connection:
            self._peer.reset()

    # --- what links need

    def add(self, link: Link) -> None:
        """Take a link in; one that has its handle already is gone."""
        before = self.links.pop(link.handle, None)
        if before is not None:
            self._leave(before)
        self.links[link.handle] = link

    def acknowledge(self, delivery: Delivery, outcome: Record) -> None:
        """Tell a sending client what became of its message."""
        if not delivery.settled:
            last = delivery.delivery_id
            self.send(Disposition(RECEIVER, delivery.delivery_id, last, settled=True, state=outcome))

    def detach(self, link: Link, error: AmqpError | None) -> None:
        """Detach a link from this side; the client's own detach ends it."""
        if link.closing:
            return
        link.closing = True
        self._leave(link)
        self.send(Detach(link.handle, closed=True, error=error))

    def end(self) -> None:
        """The session is gone, and its links with it. What was locked stays locked."""
        for link in self.links.values():
            link.on_detach()
        self.links.clear()
        self._unsettled.clear()

    def hold(self, delivery_id: int, link: Link, queue: Queue, token: UUID) -> None:
        """Remember what a disposition of that number is about."""
        self._unsettled[delivery_id] = Held(link, queue, token)

    def _leave(self, link: Link) -> None:
        link.on_detach()
        self._unsettled = {number: held for number, held in self._unsettled.items() if held.link is not link}

    def outlets(self) -> list[Outlet]:
        return [link for link in self.links.values() if isinstance(link, Outlet)]

    def _link(self, handle: int) -> Link:
        try:
            return self.links[handle]
        except KeyError:
            raise Refusal(UNATTACHED_HANDLE, f"no link is attached as {handle}") from None


def settlement_of(state: Any) -> Settlement:
    """What an outcome asks for. Raises Refusal for a state that is none."""
    match state:
        case Accepted():
            return Complete()
        case Released():
            return Release()
        case Modified(undeliverable_here=True):
            return Defer(_properties(state.message_annotations))
        case Modified():
            return Abandon(_properties(state.message_annotations), delivery_failed=bool(state.delivery_failed))
        case Rejected(error=error):
            return _dead_letter(error)
        case _:
            raise Refusal(INVALID_FIELD, f"not an outcome: {state!r:.80}")


def _dead_letter(error: AmqpError | None) -> DeadLetter:
    if error is None:
        return DeadLetter()
    info = _properties(error.info)
    if error.condition != DEAD_LETTER:
        return DeadLetter(error.condition, error.description, info)
    reason, description = info.pop(_REASON, None), info.pop(_DESCRIPTION, None)
    return DeadLetter(text(reason), text(description), info)


def _properties(value: Any) -> dict[str, Any]:
    return {str(key): item for key, item in value.items()} if isinstance(value, dict) else {}


def _echo(state: Any) -> Record:
    match state:
        case Rejected():
            return Rejected()
        case Accepted() | Released() | Modified():
            return state
        case _:
            raise AssertionError(f"settled by {state!r}")

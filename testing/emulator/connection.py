"""One client's connection: handshake, then frames to sessions and links. Bytes in, bytes out; no socket."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from testing.emulator.auth import Authority
from testing.emulator.broker import Broker
from testing.emulator.codec import Array, CodecError, Symbol
from testing.emulator.conditions import (
    CONNECTION_FORCED,
    DECODE_ERROR,
    INTERNAL_ERROR,
    INVALID_FIELD,
    NOT_ALLOWED,
    Refusal,
)
from testing.emulator.faults import Faults, LostAck
from testing.emulator.links import Inlet, Link, Outlet
from testing.emulator.nodes import Nodes
from testing.emulator.performatives import (
    AMQP_HEADER,
    EMPTY_FRAME,
    SASL_FRAME,
    SASL_HEADER,
    AmqpError,
    Attach,
    Begin,
    Close,
    Detach,
    Disposition,
    End,
    Flow,
    Frame,
    FrameReader,
    Open,
    Record,
    SaslInit,
    SaslMechanisms,
    SaslOutcome,
    Source,
    Target,
    Transfer,
    frame,
)
from testing.emulator.session import Session

_log = logging.getLogger(__name__)
_MAX_FRAME_SIZE = 65536
_MECHANISMS = Array(Symbol, (Symbol("ANONYMOUS"), Symbol("PLAIN"), Symbol("MSSBCBS"), Symbol("EXTERNAL")))
_SASL_OK, _SASL_AUTH = 0, 1
_CLOSE_GRACE = 0.5


class Wire(Protocol):
    """The byte stream below a connection."""

    def write(self, data: bytes) -> None: ...

    def close(self) -> None:
        """Send what is written, then end the stream."""
        ...

    def reset(self) -> None:
        """End the stream at once, with a reset."""
        ...


class Connection:
    """Speaks AMQP with one client."""

    def __init__(self, wire: Wire, broker: Broker, authority: Authority, faults: Faults) -> None:
        self.max_frame_size = 512
        self.container_id: str | None = None
        self._wire = wire
        self._broker = broker
        self._faults = faults
        self._nodes = Nodes(self, broker, authority, faults)
        self._reader = FrameReader(_MAX_FRAME_SIZE)
        self._step: Callable[[], bool] = self._on_header
        self._sessions: dict[int, Session] = {}
        self._closing = False
        self._gone = False
        self._loop = asyncio.get_running_loop()
        self._timers: list[asyncio.TimerHandle] = []
        self._last_heard = self._loop.time()

    # --- the stream

    def received(self, data: bytes) -> None:
        """Bytes have come in."""
        self._last_heard = self._loop.time()
        self._reader.feed(data)
        try:
            while not self._gone and self._step():
                pass
        except CodecError as exc:
            self.close(AmqpError(DECODE_ERROR, str(exc)))
        except Refusal as refusal:
            self.close(AmqpError(refusal.condition, refusal.description))
        except Exception as exc:  # noqa: BLE001 - one client's nonsense must not reach the others
            _log.exception("a frame of %s could not be served", self.container_id)
            self.close(AmqpError(INTERNAL_ERROR, f"{type(exc).__name__}: {exc}"))

    def lost(self) -> None:
        """The stream has ended: links go, locks stay."""
        self._gone = True
        for timer in self._timers:
            timer.cancel()
        for session in self._sessions.values():
            session.end()
        self._sessions.clear()

    def send(self, record: Record, channel: int = 0) -> None:
        self.write(frame(record, channel))

    def write(self, data: bytes) -> None:
        if not self._gone:
            self._wire.write(data)

    def take_lost_settlement_ack(self) -> LostAck | None:
        return self._faults.take_lost_settlement_ack()

    # --- faults and ends

    def close(self, error: AmqpError | None = None) -> None:
        """Say goodbye with an AMQP close; the stream ends when the client has answered, or after a moment."""
        if self._closing or self._gone:
            return
        if self.container_id is None:
            self._wire.close()
            return
        self._closing = True
        for session in self._sessions.values():
            session.end()
        self._sessions.clear()
        self.send(Close(error))
        self.later(_CLOSE_GRACE, self._wire.close)

    def reset(self) -> None:
        self._wire.reset()

    def detach_links(self, error: AmqpError | None, where: Callable[[Link], bool] = lambda _: True) -> int:
        """Detach the links to queues (``$cbs`` stays); how many there were."""
        found = [
            (session, link)
            for session in self._sessions.values()
            for link in session.links.values()
            if link.path is not None and not link.closing and where(link)
        ]
        for session, link in found:
            session.detach(link, error)
        return len(found)

    def outlets(self) -> list[Outlet]:
        """The links that this client receives on."""
        return [one for session in self._sessions.values() for one in session.outlets() if not one.closing]

    def expire_tokens(self) -> None:
        """Forget every right of this client and detach what it held them for."""
        self._nodes.expire_tokens()

    # --- handshake

    def _on_header(self) -> bool:
        header = self._reader.header()
        if header is None:
            return False
        if header == SASL_HEADER:
            self.write(SASL_HEADER + frame(SaslMechanisms(_MECHANISMS), kind=SASL_FRAME))
            self._step = self._on_sasl
        elif header == AMQP_HEADER:
            self.write(AMQP_HEADER)
            self._step = self._on_frame
        else:
            self.write(SASL_HEADER)
            self._wire.close()
            self._gone = True
        return True

    def _on_sasl(self) -> bool:
        found = self._reader.next()
        if found is None:
            return False
        if not isinstance(found.body, SaslInit):
            raise CodecError(f"expected a SASL init, not {found.body!r:.80}")
        granted = True
        if found.body.mechanism == "PLAIN":
            granted = self._nodes.log_in(found.body.initial_response or b"")
        self.write(frame(SaslOutcome(_SASL_OK if granted else _SASL_AUTH), kind=SASL_FRAME))
        if not granted:
            self._wire.close()
        self._step = self._on_header
        return True

    # --- frames

    def _on_frame(self) -> bool:
        found = self._reader.next()
        if found is None:
            return False
        if self._closing:
            if isinstance(found.body, Close):
                self._wire.close()
            return True
        self._dispatch(found)
        return True

    def _dispatch(self, found: Frame) -> None:
        match found.body:
            case Transfer() as body:
                self._session(found.channel).on_transfer(body, found.payload)
            case Disposition() as body:
                self._session(found.channel).on_disposition(body)
            case Flow() as body:
                self._session(found.channel).on_flow(body)
            case Attach() as body:
                self._attach(self._session(found.channel), body)
            case Detach() as body:
                self._session(found.channel).on_detach(body)
            case Begin() as body:
                if found.channel in self._sessions:
                    raise Refusal(NOT_ALLOWED, f"a session has begun on channel {found.channel} already")
                session = self._sessions[found.channel] = Session(self, found.channel, body)
                session.open()
            case End():
                self._session(found.channel).end()
                del self._sessions[found.channel]
                self.send(End(), found.channel)
            case Open() as body:
                self._open(body)
            case Close():
                self.send(Close())
                self._closing = True
                self._wire.close()
            case None:
                pass
            case other:
                raise Refusal(NOT_ALLOWED, f"a {type(other).__name__} is not allowed here")

    def _session(self, channel: int) -> Session:
        try:
            return self._sessions[channel]
        except KeyError:
            raise Refusal(NOT_ALLOWED, f"no session has begun on channel {channel}") from None

    def _open(self, body: Open) -> None:
        idle = self._broker.config.idle_timeout.total_seconds()
        self.container_id = body.container_id
        self.max_frame_size = min(body.max_frame_size or _MAX_FRAME_SIZE, _MAX_FRAME_SIZE)
        if self.max_frame_size < 512:
            raise Refusal(INVALID_FIELD, f"max-frame-size must be at least 512, not {self.max_frame_size}")
        self.send(
            Open(
                container_id=f"emulator-{self._broker.config.namespace}",
                max_frame_size=_MAX_FRAME_SIZE,
                channel_max=255,
                idle_time_out=round(idle * 1000 / 2),
            )
        )
        if body.idle_time_out:
            self._every(body.idle_time_out / 2000, lambda: self.write(EMPTY_FRAME))
        self._every(idle / 4, lambda: self._check_silence(idle))

    def _check_silence(self, limit: float) -> None:
        if self._loop.time() - self._last_heard > limit:
            self.close(AmqpError(CONNECTION_FORCED, f"The connection was inactive for more than {limit:g} seconds."))

    # --- links

    def _attach(self, session: Session, attach: Attach) -> None:
        try:
            link = self._nodes.link(session, attach)
        except Refusal as refusal:
            self._refuse(session, attach, refusal)
            return
        session.add(link)
        session.send(self._echo(attach, initial_delivery_count=0 if attach.role else None))
        if isinstance(link, Inlet):
            link.open()

    def _echo(self, attach: Attach, *, initial_delivery_count: int | None) -> Attach:
        return Attach(
            name=attach.name,
            handle=attach.handle,
            role=not attach.role,
            snd_settle_mode=attach.snd_settle_mode,
            rcv_settle_mode=attach.rcv_settle_mode,
            source=attach.source or Source(),
            target=attach.target or Target(),
            initial_delivery_count=initial_delivery_count,
            max_message_size=self._broker.config.max_message_size,
            properties=attach.properties,
        )

    def _refuse(self, session: Session, attach: Attach, refusal: Refusal) -> None:
        """A refused link is attached without its own terminus and detached with the reason (AMQP 1.0, 2.6.3)."""
        answer = self._echo(attach, initial_delivery_count=0 if attach.role else None)
        if attach.role:
            answer.source = None
        else:
            answer.target = None
        session.send(answer)
        session.send(Detach(attach.handle, closed=True, error=AmqpError(refusal.condition, refusal.description)))

    # --- timers

    def later(self, seconds: float, do: Callable[[], None]) -> None:
        """Do something after a while, unless the stream has ended by then."""
        self._timers = [timer for timer in self._timers if not timer.cancelled() and timer.when() > self._loop.time()]
        self._timers.append(self._loop.call_later(max(seconds, 0), do))

    def _every(self, seconds: float, do: Callable[[], None]) -> None:
        def again() -> None:
            if not self._gone:
                do()
                self.later(seconds, again)

        self.later(seconds, again)

"""One client's connection: handshake, then frames to sessions and links. Bytes in, bytes out; no socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from testing.emulator.auth import Authority, Grant
from testing.emulator.broker import Address, Broker
from testing.emulator.codec import Array, CodecError, Int, Symbol
from testing.emulator.conditions import (
    CONNECTION_FORCED,
    DECODE_ERROR,
    INVALID_FIELD,
    NOT_ALLOWED,
    NOT_FOUND,
    UNAUTHORIZED,
    Refusal,
)
from testing.emulator.faults import Faults, LostAck
from testing.emulator.links import Delivery, Inlet, Link, Outlet, QueueOutlet
from testing.emulator.management import Management
from testing.emulator.message import parse_message, response_message
from testing.emulator.performatives import (
    AMQP_HEADER,
    EMPTY_FRAME,
    SASL_FRAME,
    SASL_HEADER,
    Accepted,
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
    Rejected,
    SaslInit,
    SaslMechanisms,
    SaslOutcome,
    Source,
    Target,
    Transfer,
    frame,
    text,
)
from testing.emulator.session import Session

_MAX_FRAME_SIZE = 65536
_MECHANISMS = Array(Symbol, (Symbol("ANONYMOUS"), Symbol("PLAIN"), Symbol("MSSBCBS"), Symbol("EXTERNAL")))
_SASL_OK, _SASL_AUTH = 0, 1
_CBS = "$cbs"
_CLOSE_GRACE = 2.0


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
        self._authority = authority
        self._faults = faults
        self._management = Management(faults)
        self._reader = FrameReader(_MAX_FRAME_SIZE)
        self._step: Callable[[], bool] = self._on_header
        self._sessions: dict[int, Session] = {}
        self._grants: dict[str, Grant] = {}
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
        self._later(_CLOSE_GRACE, self._wire.close)

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

    def expire_tokens(self) -> None:
        """Forget every right of this client and detach what it held them for."""
        self._grants.clear()
        self.detach_links(AmqpError(UNAUTHORIZED, "ExpiredToken: The token is expired."))

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
            granted = self._authority.plain_is_valid(found.body.initial_response or b"")
            if granted:
                self._grants[""] = Grant("", float("inf"))
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
        terminus = attach.source if attach.role else attach.target
        given = getattr(terminus, "address", None)
        address = Address.parse(given)
        try:
            link = self._link(session, attach, address)
        except Refusal as refusal:
            self._refuse(session, attach, refusal)
            return
        session.links[attach.handle] = link
        session.send(self._echo(attach, initial_delivery_count=0 if attach.role else None))
        if isinstance(link, Inlet):
            link.open()

    def _link(self, session: Session, attach: Attach, address: Address) -> Link:
        limit = self._broker.config.max_message_size
        if address.path == _CBS:
            if attach.role:
                return Outlet(session, attach, None)
            return Inlet(session, attach, None, self._on_token, limit)
        if (busy := self._faults.take_busy()) is not None:
            raise busy
        queue = self._broker.find(address.path)
        self._authorise(address.path)
        if address.is_management:
            if attach.role:
                return Outlet(session, attach, address.path)
            return Inlet(session, attach, address.path, self._on_request, limit)
        if attach.role:
            return QueueOutlet(session, attach, address.path, queue)
        if queue.dead_letters is None:
            raise Refusal(NOT_FOUND, f"The messaging entity '{queue.name}' could not be found: it takes no messages.")
        return Inlet(session, attach, address.path, self._on_send, limit)

    def _authorise(self, path: str) -> None:
        now = self._broker.clock.real()
        if not any(grant.covers(path) and grant.expires_at > now for grant in self._grants.values()):
            words = "Unauthorized access. 'Listen' or 'Send' claim(s) are required to perform this operation"
            raise Refusal(UNAUTHORIZED, f"{words}. Resource: '{path}'")

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

    # --- messages

    def _on_send(self, link: Inlet, delivery: Delivery) -> None:
        try:
            if (busy := self._faults.take_busy()) is not None:
                raise busy
            self._broker.send(self._broker.find(link.path or ""), delivery.payload, delivery.message_format)
        except Refusal as refusal:
            link.session.acknowledge(delivery, Rejected(AmqpError(refusal.condition, refusal.description)))
            return
        lost = self._faults.take_lost_send_ack()
        if lost is None:
            link.session.acknowledge(delivery, Accepted())
        elif lost.drop_connection:
            self.reset()

    def _on_request(self, link: Inlet, delivery: Delivery) -> None:
        request = parse_message(delivery.payload)
        link.session.acknowledge(delivery, Accepted())
        answer = self._management.answer(self._broker.find(link.path or ""), request)
        self._reply(link, request.reply_to, answer.encode(request.message_id))

    def _on_token(self, link: Inlet, delivery: Delivery) -> None:
        request = parse_message(delivery.payload)
        link.session.acknowledge(delivery, Accepted())
        status, description = self._take_token(request.application_properties, request.body())
        properties = {"status-code": Int(status), "status-description": description}
        self._reply(link, request.reply_to, response_message(request.message_id, properties))

    def _take_token(self, properties: dict[Any, Any], token: Any) -> tuple[int, str]:
        if properties.get("operation") != "put-token":
            return 400, f"The operation {properties.get('operation')!r} is not known here; put-token is"
        now = self._broker.clock.real()
        try:
            grant = self._authority.accept(text(token) or "", text(properties.get("name")) or "", now)
        except Refusal as refusal:
            return 401, refusal.description
        self._grants[grant.path] = grant
        if grant.expires_at != float("inf"):
            self._later(grant.expires_at - now, lambda: self._on_expiry(grant.path))
        return 202, "Accepted"

    def _on_expiry(self, path: str) -> None:
        grant = self._grants.get(path)
        if grant is not None and grant.expires_at <= self._broker.clock.real():
            del self._grants[path]
            error = AmqpError(UNAUTHORIZED, "ExpiredToken: The token is expired.")
            self.detach_links(error, lambda link: link.path is not None and grant.covers(link.path))

    def _reply(self, link: Inlet, reply_to: Any, payload: bytes) -> None:
        """On the newest link that receives from the same node, one whose target is ``reply_to`` before others."""
        node = Address.parse(getattr(link.attach.target, "address", None))
        found = [one for session in self._sessions.values() for one in session.outlets() if not one.closing]
        found = [one for one in found if Address.parse(getattr(one.attach.source, "address", None)) == node]
        named = [one for one in found if text(getattr(one.attach.target, "address", None)) == text(reply_to)]
        for one in (named or found)[-1:]:
            one.answer(payload)

    # --- timers

    def _later(self, seconds: float, do: Callable[[], None]) -> None:
        self._timers = [timer for timer in self._timers if not timer.cancelled() and timer.when() > self._loop.time()]
        self._timers.append(self._loop.call_later(max(seconds, 0), do))

    def _every(self, seconds: float, do: Callable[[], None]) -> None:
        def again() -> None:
            if not self._gone:
                do()
                self._later(seconds, again)

        self._later(seconds, again)

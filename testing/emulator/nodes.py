"""What stands behind the addresses that a client attaches to: queues, their management nodes, and ``$cbs``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from testing.emulator.auth import Authority, Grant
from testing.emulator.broker import Address, Broker
from testing.emulator.codec import Int
from testing.emulator.conditions import NOT_FOUND, UNAUTHORIZED, Refusal
from testing.emulator.faults import Faults
from testing.emulator.links import Delivery, Inlet, Link, Outlet, QueueOutlet
from testing.emulator.management import Management
from testing.emulator.message import parse_message, response_message
from testing.emulator.performatives import Accepted, AmqpError, Attach, Rejected, text
from testing.emulator.session import Session

_CBS = "$cbs"
_EVERYTHING = ""
_EXPIRED = "ExpiredToken: The token is expired."


class Client(Protocol):
    """The connection that a client's nodes answer on."""

    def outlets(self) -> list[Outlet]: ...

    def detach_links(self, error: AmqpError | None, where: Callable[[Link], bool] = ...) -> int: ...

    def later(self, seconds: float, do: Callable[[], None]) -> None: ...

    def reset(self) -> None: ...


class Nodes:
    """The nodes as one client may see them: it holds the client's rights."""

    def __init__(self, client: Client, broker: Broker, authority: Authority, faults: Faults) -> None:
        self._client = client
        self._broker = broker
        self._authority = authority
        self._faults = faults
        self._management = Management(faults)
        self._grants: dict[str, Grant] = {}

    # --- rights

    def log_in(self, plain_response: bytes) -> bool:
        """SASL PLAIN with the shared key is a right to everything."""
        valid = self._authority.plain_is_valid(plain_response)
        if valid:
            self._grants[_EVERYTHING] = Grant(_EVERYTHING, float("inf"))
        return valid

    def expire_tokens(self) -> None:
        """Forget every right and detach what it was held for."""
        self._grants.clear()
        self._client.detach_links(AmqpError(UNAUTHORIZED, _EXPIRED))

    def _authorise(self, path: str) -> None:
        now = self._broker.clock.real()
        if not any(grant.covers(path) and grant.expires_at > now for grant in self._grants.values()):
            words = "Unauthorized access. 'Listen' or 'Send' claim(s) are required to perform this operation"
            raise Refusal(UNAUTHORIZED, f"{words}. Resource: '{path}'")

    # --- links

    def link(self, session: Session, attach: Attach) -> Link:
        """The link that an attach asks for. Raises Refusal."""
        address = _node(attach.source if attach.role else attach.target)
        limit = self._broker.config.max_message_size
        if address.path == _CBS:
            if attach.role:
                return Outlet(session, attach, None)
            return Inlet(session, attach, None, self._on_token, limit)
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
            self._client.reset()

    def _on_request(self, link: Inlet, delivery: Delivery) -> None:
        request = parse_message(delivery.payload)
        link.session.acknowledge(delivery, Accepted())
        answer = self._management.answer(self._broker.find(link.path or ""), request)
        if answer.settled and (lost := self._faults.take_lost_settlement_ack()) is not None:
            if lost.drop_connection:
                self._client.reset()
            return
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
            self._client.later(grant.expires_at - now, lambda: self._on_expiry(grant.path))
        return 202, "Accepted"

    def _on_expiry(self, path: str) -> None:
        grant = self._grants.get(path)
        if grant is not None and grant.expires_at <= self._broker.clock.real():
            del self._grants[path]
            error = AmqpError(UNAUTHORIZED, _EXPIRED)
            self._client.detach_links(error, lambda link: link.path is not None and grant.covers(link.path))

    def _reply(self, link: Inlet, reply_to: Any, payload: bytes) -> None:
        """On the newest link that receives from the same node, one whose target is ``reply_to`` before others."""
        node = _node(link.attach.target)
        found = [one for one in self._client.outlets() if _node(one.attach.source) == node]
        named = [one for one in found if text(getattr(one.attach.target, "address", None)) == text(reply_to)]
        for one in (named or found)[-1:]:
            one.answer(payload)


def _node(terminus: Any) -> Address:
    return Address.parse(getattr(terminus, "address", None))

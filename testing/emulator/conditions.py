"""The error conditions that Service Bus answers with, and the refusal that carries one."""

from __future__ import annotations

NOT_FOUND = "amqp:not-found"
NOT_ALLOWED = "amqp:not-allowed"
NOT_IMPLEMENTED = "amqp:not-implemented"
UNAUTHORIZED = "amqp:unauthorized-access"
DECODE_ERROR = "amqp:decode-error"
INTERNAL_ERROR = "amqp:internal-error"
INVALID_FIELD = "amqp:invalid-field"
CONNECTION_FORCED = "amqp:connection:forced"
DETACH_FORCED = "amqp:link:detach-forced"
MESSAGE_SIZE_EXCEEDED = "amqp:link:message-size-exceeded"
UNATTACHED_HANDLE = "amqp:session:unattached-handle"
MESSAGE_LOCK_LOST = "com.microsoft:message-lock-lost"
MESSAGE_NOT_FOUND = "com.microsoft:message-not-found"
SERVER_BUSY = "com.microsoft:server-busy"
ARGUMENT_ERROR = "com.microsoft:argument-error"
DEAD_LETTER = "com.microsoft:dead-letter"

_STATUS = {
    NOT_FOUND: 404,
    NOT_ALLOWED: 400,
    NOT_IMPLEMENTED: 501,
    UNAUTHORIZED: 401,
    MESSAGE_LOCK_LOST: 410,
    MESSAGE_NOT_FOUND: 404,
    SERVER_BUSY: 503,
    ARGUMENT_ERROR: 400,
    MESSAGE_SIZE_EXCEEDED: 413,
}


class Refusal(Exception):
    """The broker says no, with the condition and words that the service would use."""

    def __init__(self, condition: str, description: str) -> None:
        self.condition = condition
        self.description = description
        super().__init__(f"{condition}: {description}")

    @property
    def status(self) -> int:
        """The HTTP-like code of management responses."""
        return _STATUS.get(self.condition, 500)


def lock_lost(token: object) -> Refusal:
    words = (
        "The lock supplied is invalid. Either the lock expired, or the message has already been removed from the queue"
    )
    return Refusal(MESSAGE_LOCK_LOST, f"{words}. Lock token: {token}")


def server_busy() -> Refusal:
    return Refusal(SERVER_BUSY, "The server is busy. Please wait 10 seconds and try again")

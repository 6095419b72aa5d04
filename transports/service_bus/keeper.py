"""Lock renewal, on a receiver of its own that never receives.

The SDK's AutoLockRenewer is not used: after a reconnect it stops renewing without a word, and it renews in the last ten
seconds of a lock whatever its length. Here the heartbeat asks at every third of the lock, and an attempt that hangs on
a half-open connection is bounded and made again on a new one.
"""

from __future__ import annotations

import logging
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from transports.base import DeliveryLost
from transports.service_bus.connection import ServiceBusConnection, describe, transport_errors
from transports.service_bus.figures import Figures
from transports.service_bus.link import receiver_link

if TYPE_CHECKING:
    from azure.servicebus import ServiceBusReceivedMessage

logger = logging.getLogger(__name__)

_SOONEST = timedelta(seconds=1)
_LATEST = timedelta(seconds=100)  # a third of the longest lock that the service has, five minutes


class LockKeeper:
    """Renews the locks of one source's messages. Any thread may ask; the receiver is used by one at a time."""

    def __init__(self, connection: ServiceBusConnection, queue: str, figures: Figures) -> None:
        self._try_timeout = connection.try_timeout
        self._link = receiver_link(connection, queue)
        self._figures = figures
        self._lock = threading.Lock()
        self._broken = False

    def renew(self, raw: ServiceBusReceivedMessage) -> timedelta:
        """Extend a message's lock, on a new receiver when the first attempt fails; how long until the next renewal.

        A service that cannot be reached is no error: the lock may outlast the fault, and asking again is all there is
        to do.

        Raises:
            DeliveryLost: when the lock is gone, or the message is settled.
        """
        from azure.servicebus.exceptions import MessageAlreadySettled, MessageLockLostError

        with self._lock:
            for last_try in (False, True):
                try:
                    self._link.open().renew_message_lock(raw, timeout=self._try_timeout)
                except MessageAlreadySettled as error:
                    raise DeliveryLost(describe(error)) from error
                except MessageLockLostError as error:
                    self._figures.locks_lost += 1
                    logger.warning(
                        "the lock of a message is lost: %s",
                        describe(error),
                        extra={"action": "lock.lost", "message_id": raw.message_id},
                    )
                    raise DeliveryLost(describe(error)) from error
                except transport_errors() as error:
                    self._link.drop()
                    if last_try:
                        self._note(describe(error))
                else:
                    self._note(None)
                    self._figures.renewals += 1
                    logger.debug("lock renewed", extra={"action": "lock.renewed", "message_id": raw.message_id})
                    break
        return _a_third_of_the_rest(raw)

    def _note(self, fault: str | None) -> None:
        if fault is not None:
            self._figures.renewals_failed += 1
            if not self._broken:
                logger.warning("locks cannot be renewed: %s", fault, extra={"action": "lock.unrenewed"})
        elif self._broken:
            logger.info("locks are renewed again", extra={"action": "lock.renewed"})
        self._broken = fault is not None

    def close(self) -> threading.Thread | None:
        """Let go of the receiver; the thread that closes it."""
        with self._lock:
            return self._link.drop()


def _a_third_of_the_rest(raw: ServiceBusReceivedMessage) -> timedelta:
    until = raw.locked_until_utc
    if until is None:
        return _LATEST
    return min(max((until - datetime.now(UTC)) / 3, _SOONEST), _LATEST)

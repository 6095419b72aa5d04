"""What goes wrong on purpose. Set from the emulator's methods, asked at the places where it bites."""

from __future__ import annotations

from dataclasses import dataclass, field

from testing.emulator.conditions import MESSAGE_LOCK_LOST, Refusal, server_busy


@dataclass(slots=True)
class Budget:
    """How many more times; ``None`` is for ever."""

    left: int | None = 0

    def take(self) -> bool:
        if self.left is None:
            return True
        if self.left == 0:
            return False
        self.left -= 1
        return True


@dataclass(slots=True)
class LostAck:
    """One answer to swallow; ``drop_connection`` resets the connection in its place."""

    drop_connection: bool


@dataclass(slots=True)
class Faults:
    delay: float = 0.0
    """Seconds that every byte of the broker is held back."""
    blackhole_new: bool = False
    """New connections are accepted by the kernel and never answered."""
    refused_renewals: Budget = field(default_factory=Budget)
    busy_operations: Budget = field(default_factory=Budget)
    lost_settlement_acks: list[LostAck] = field(default_factory=list)
    lost_send_acks: list[LostAck] = field(default_factory=list)

    def take_refused_renewal(self) -> Refusal | None:
        if not self.refused_renewals.take():
            return None
        return Refusal(MESSAGE_LOCK_LOST, "The lock supplied is invalid: renewals are being refused on purpose.")

    def take_busy(self) -> Refusal | None:
        return server_busy() if self.busy_operations.take() else None

    def take_lost_settlement_ack(self) -> LostAck | None:
        return self.lost_settlement_acks.pop(0) if self.lost_settlement_acks else None

    def take_lost_send_ack(self) -> LostAck | None:
        return self.lost_send_acks.pop(0) if self.lost_send_acks else None

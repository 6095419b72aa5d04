"""The queue against a model: whatever is done to it in whatever order, no message is lost, doubled or held twice."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from testing.emulator import MessageState, QueueConfig
from testing.emulator.clock import Clock
from testing.emulator.conditions import Refusal
from testing.emulator.message import new_message
from testing.emulator.queue import Entry, Queue
from testing.emulator.settlements import Abandon, Complete, DeadLetter, Defer, Release, Settlement

LOCK = timedelta(seconds=30)
MAX_DELIVERIES = 3


class Holder:
    """A consumer that takes what it has credit for and remembers what it holds."""

    destructive = False

    def __init__(self) -> None:
        self.credit = 0
        self.got: list[tuple[str, UUID, int]] = []

    def wants(self) -> bool:
        return self.credit > 0

    def deliver(self, _queue: Queue, entry: Entry) -> None:
        self.credit -= 1
        assert entry.lock_token is not None
        self.got.append((entry.message.message_id, entry.lock_token, entry.delivery_count))


class QueueMachine(RuleBasedStateMachine):
    held = Bundle("held")
    deferred = Bundle("deferred")

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000_000.0
        self.clock = Clock(lambda: self.now)
        self.queue = Queue(QueueConfig(name="q", lock_duration=LOCK, max_delivery_count=MAX_DELIVERIES), self.clock)
        self.holder = Holder()
        self.queue.consumers.append(self.holder)
        self.alive: set[str] = set()
        self.locked: dict[UUID, tuple[str, float]] = {}
        self.failures: dict[str, int] = {}
        self.dead: set[str] = set()
        self.count = 0

    @rule()
    def send(self) -> None:
        self.count += 1
        name = str(self.count)
        self.queue.enqueue(new_message(b"", message_id=name, application_properties={}))
        self.alive.add(name)
        self.failures[name] = 0
        self.queue.pump()

    @rule(target=held)
    def receive(self) -> tuple[str, UUID] | None:
        before = len(self.holder.got)
        self.holder.credit = 1
        self.queue.pump()
        self.holder.credit = 0
        if len(self.holder.got) == before:
            return None
        name, token, count = self.holder.got[-1]
        assert name in self.alive
        assert name not in {one for one, _ in self.locked.values()}, "held by two at once"
        assert count == self.failures[name]
        self.locked[token] = (name, self.now + LOCK.total_seconds())
        return name, token

    @rule(
        one=consumes(held),
        settlement=st.sampled_from([Complete(), Release(), Abandon(), Defer(), DeadLetter("R", "D")]),
    )
    def settle(self, one: tuple[str, UUID] | None, settlement: Settlement) -> None:
        if one is None:
            return
        name, token = one
        if token not in self.locked:
            with pytest.raises(Refusal, match="lock"):
                self.queue.settle(token, settlement)
            return
        self.queue.settle(token, settlement)
        del self.locked[token]
        match settlement:
            case Complete():
                self.alive.discard(name)
            case Abandon():
                self.fail(name)
            case Defer():
                self.failures[name] += 1
            case DeadLetter():
                self.dead.add(name)
            case _:
                pass

    @rule(one=held)
    def renew(self, one: tuple[str, UUID] | None) -> None:
        if one is None:
            return
        name, token = one
        if token in self.locked:
            until = self.now + LOCK.total_seconds()
            assert self.queue.renew(token) == until
            self.locked[token] = (name, until)
        else:
            with pytest.raises(Refusal, match="lock"):
                self.queue.renew(token)

    @rule(target=held)
    def take_deferred(self) -> tuple[str, UUID] | None:
        waiting = [entry for entry in self.queue.peek(1, 1000) if entry.state is MessageState.DEFERRED]
        if not waiting:
            return None
        (entry,) = self.queue.receive_deferred([waiting[0].sequence_number], destructive=False)
        assert entry.lock_token is not None
        name = str(entry.message.message_id)
        self.locked[entry.lock_token] = (name, self.now + LOCK.total_seconds())
        return name, entry.lock_token

    @rule(seconds=st.sampled_from([1.0, 10.0, 29.0, 31.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.queue.tick()
        for token, (name, until) in list(self.locked.items()):
            if until <= self.now:
                del self.locked[token]
                self.fail(name)

    def fail(self, name: str) -> None:
        self.failures[name] += 1
        if self.failures[name] >= MAX_DELIVERIES:
            self.dead.add(name)

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        assert self.queue.dead_letters is not None
        live = [str(entry.message.message_id) for entry in self.queue.peek(1, 1000)]
        dead = [str(entry.message.message_id) for entry in self.queue.dead_letters.peek(1, 1000)]
        assert len(set(live + dead)) == len(live + dead)
        assert set(dead) == self.dead
        assert set(live) | set(dead) == self.alive

    @invariant()
    def locks_agree(self) -> None:
        held = {entry.lock_token for entry in self.queue.peek(1, 1000) if entry.state is MessageState.LOCKED}
        assert held == set(self.locked)


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.fixture
def queue() -> Callable[..., Queue]:
    return lambda **options: Queue(QueueConfig(name="q", **options), Clock(lambda: 1_000_000.0))


def test_messages_come_in_the_order_of_their_numbers_whatever_came_back(queue: Callable[..., Queue]) -> None:
    one = queue()
    for name in "abc":
        one.enqueue(new_message(b"", message_id=name, application_properties={}))
    holder = Holder()
    one.consumers.append(holder)
    holder.credit = 2
    one.pump()
    for _, token, _ in list(holder.got):
        one.settle(token, Release())
    holder.credit = 3
    one.pump()
    assert [name for name, _, _ in holder.got] == ["a", "b", "a", "b", "c"]


def test_consumers_take_turns(queue: Callable[..., Queue]) -> None:
    one, holders = queue(), [Holder(), Holder(), Holder()]
    for holder in holders:
        holder.credit = 5
        one.consumers.append(holder)
    for name in "abcdef":
        one.enqueue(new_message(b"", message_id=name, application_properties={}))
    one.pump()
    assert [[name for name, _, _ in holder.got] for holder in holders] == [["a", "d"], ["b", "e"], ["c", "f"]]


def test_a_dead_letter_is_not_dead_lettered_again(queue: Callable[..., Queue]) -> None:
    one = queue()
    one.enqueue(new_message(b"", message_id="a", application_properties={}))
    holder = Holder()
    for place in (one, one.dead_letters):
        assert place is not None
        place.consumers.append(holder)
        holder.credit = 1
        place.pump()
        token = holder.got[-1][1]
        if place is one:
            place.settle(token, DeadLetter())
        else:
            with pytest.raises(Refusal, match="cannot be dead-lettered again"):
                place.settle(token, DeadLetter())


def test_the_clock_does_not_go_back() -> None:
    with pytest.raises(ValueError, match="only goes forward"):
        Clock().advance(timedelta(seconds=-1))

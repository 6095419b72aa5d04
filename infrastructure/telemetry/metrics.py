"""Prometheus metrics in a registry of their own: events are counted as they happen, states are read at each scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from core.heartbeat import HeartbeatCounts
from core.messages import Message, TaskMessage
from core.outcome import Outcome, Superseded
from core.records import SweepReport
from infrastructure.relay import RelayStatus
from infrastructure.watchdogs import MemoryWatch

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 1800, 3600, 7200, 14400, 28800)

Read = Callable[[], Mapping[str, Any]]
Families = Iterator[Metric]


class Metrics:
    """All metrics of one process. ``watch_*`` name the parts whose state is read at each scrape."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._tasks = Counter(
            "geoworker_tasks_total",
            "Task messages handled, by how it ended: a redelivery that found nothing to do is Superseded.",
            ["task_type", "outcome"],
            registry=self.registry,
        )
        self._duration = Histogram(
            "geoworker_task_duration_seconds",
            "Time from a task's message to its committed end, by task type.",
            ["task_type"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._orchestration = Counter(
            "geoworker_orchestration_messages_total",
            "Job messages and stage completions handled, by how it ended.",
            ["message_type", "outcome"],
            registry=self.registry,
        )
        self._redeliveries = Counter(
            "geoworker_redeliveries_total",
            "Task messages that found the work done, not due, or in other hands.",
            registry=self.registry,
        )
        self._sweeps = Counter("geoworker_sweeps_total", "Passes of the sweeper.", registry=self.registry)
        self._swept = Counter(
            "geoworker_swept_rows_total", "Rows the sweeper moved on, by step.", ["step"], registry=self.registry
        )

    def handled(self, message: Message, outcome: Outcome, seconds: float) -> None:
        """A message was handled."""
        name = type(outcome).__name__
        if not isinstance(message, TaskMessage):
            self._orchestration.labels(message.message_type, name).inc()
            return
        self._tasks.labels(message.task_type, name).inc()
        if isinstance(outcome, Superseded):
            self._redeliveries.inc()
        else:
            self._duration.labels(message.task_type).observe(seconds)

    def swept(self, report: SweepReport) -> None:
        """The sweeper made a pass."""
        self._sweeps.inc()
        for field in fields(report):
            value = getattr(report, field.name)
            if isinstance(value, int) and value:
                self._swept.labels(field.name).inc(value)

    def watch_heartbeats(self, counts: HeartbeatCounts) -> None:
        """Lease renewals and losses."""

        def collect() -> Families:
            yield _counter("lease_renewals", "Leases of running tasks renewed.", counts.renewed)
            yield _counter("lease_losses", "Leases lost to another attempt.", counts.leases_lost)
            yield _counter("delivery_lock_losses", "Delivery locks lost while the lease held.", counts.locks_lost)
            yield _counter("heartbeat_failures", "Heartbeats that could not reach the store.", counts.failed)

        self._register(collect)

    def watch_relay(self, status: RelayStatus) -> None:
        """Messages sent."""

        def collect() -> Families:
            yield _counter("relay_messages_sent", "Messages handed to a transport.", status.sent)
            yield _counter("relay_messages_failed", "Sends that failed and will be tried again.", status.failed)
            yield _counter("relay_messages_given_up", "Messages given up as undeliverable.", status.given_up)

        self._register(collect)

    def watch_workers(self, statuses: Mapping[str, Read]) -> None:
        """Worker loops by name, by ``BackgroundQueueWorker.status``."""

        def collect() -> Families:
            read = {name: status() for name, status in statuses.items()}
            for field, text in (
                ("running", "Whether every loop of the worker runs."),
                ("connected", "Whether the worker's source is connected."),
            ):
                yield _by_worker(GaugeMetricFamily, field, text, {name: float(r[field]) for name, r in read.items()})
            running = {name: float(len(r["current_tasks"])) for name, r in read.items()}
            yield _by_worker(GaugeMetricFamily, "tasks_running", "Tasks that run now.", running)
            for field, text in (
                ("received", "Messages received."),
                ("retried", "Messages given back to come again."),
                ("dead_lettered", "Messages dead-lettered."),
                ("settlements_lost", "Settlements that came too late."),
            ):
                yield _by_worker(CounterMetricFamily, field, text, {name: r[field] for name, r in read.items()})
            for field, text in (
                ("redelivered", "Messages that were delivered before."),
                ("lock_renewals", "Message locks renewed."),
                ("lock_renewals_failed", "Lock renewals that could not reach the service."),
                ("locks_lost", "Messages whose lock was lost before they were settled."),
                ("connects", "Times the worker's source connected."),
            ):
                values = {name: r["details"][field] for name, r in read.items() if field in r.get("details", {})}
                if values:
                    yield _by_worker(CounterMetricFamily, field, text, values)

        self._register(collect)

    def watch_pool(self, status: Read) -> None:
        """The database pool, by ``ConnectionPoolManager.status``."""

        def collect() -> Families:
            read = status()
            yield _gauge("db_pool_connections", "Open database connections.", read["size"])
            yield _gauge("db_pool_available", "Idle database connections.", read["available"])
            yield _gauge("db_pool_waiting", "Requests that wait for a database connection.", read["waiting"])
            yield _counter("db_pool_connections_lost", "Database connections that broke.", read["connections_lost"])

        self._register(collect)

    def watch_executor(self, status: Read) -> None:
        """Child processes, by ``ProcessExecutor.status``."""

        def collect() -> Families:
            read = status()
            children = read["children"]
            resident = sum(child["resident_bytes"] or 0 for child in children)
            yield _gauge("children", "Child processes that are there.", len(children))
            yield _gauge(
                "children_busy", "Child processes that run a task.", sum(c["task"] is not None for c in children)
            )
            yield _gauge("children_resident_bytes", "Resident size of all child processes.", resident)
            yield _counter("children_started", "Child processes started.", read["started"])
            yield _counter("children_died", "Child processes that died or were killed at work.", read["died"])
            yield _counter("children_retired", "Child processes replaced after a task.", read["retired"])
            yield _counter("task_stalls", "Tasks reported for making no progress.", read["stalled"])
            stops = CounterMetricFamily(
                "geoworker_task_stops", "Running tasks that were asked to stop, by reason.", labels=["reason"]
            )
            for reason, number in read["stops"].items():
                stops.add_metric([reason], number)
            yield stops

        self._register(collect)

    def watch_memory(self, memory: MemoryWatch) -> None:
        """The memory limit and how much of it is used."""

        def collect() -> Families:
            reading = memory.read()
            if reading is not None:
                yield _gauge("memory_used_bytes", "Memory used under the limit that is nearest.", reading.used)
                yield _gauge("memory_limit_bytes", "That limit.", reading.limit)
            yield _counter("oom_kills", "Kills for want of memory seen in this container.", memory.oom_kills())

        self._register(collect)

    def render(self) -> bytes:
        """The text that Prometheus scrapes, of :data:`CONTENT_TYPE`."""
        return generate_latest(self.registry)

    def _register(self, collect: Callable[[], Families]) -> None:
        self.registry.register(_Watched(collect))


class _Watched(Collector):
    """Reads a part's state at each scrape."""

    def __init__(self, collect: Callable[[], Families]) -> None:
        self._collect = collect

    def collect(self) -> Families:
        yield from self._collect()

    def describe(self) -> list[Metric]:
        return []  # nothing is read before the first scrape


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"geoworker_{name}", text, value=value)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"geoworker_{name}", text, value=value)


def _by_worker(
    family: type[CounterMetricFamily | GaugeMetricFamily], name: str, text: str, values: Mapping[str, float]
) -> Metric:
    metric = family(f"geoworker_worker_{name}", text, labels=["worker"])
    for worker, value in values.items():
        metric.add_metric([worker], value)
    return metric

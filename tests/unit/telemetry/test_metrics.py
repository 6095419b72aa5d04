from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from core.errors import ErrorInfo
from core.heartbeat import HeartbeatCounts
from core.messages import JobMessage, Message, TaskMessage
from core.outcome import Deferred, Failed, Finished, Outcome, Superseded
from core.records import SweepReport
from infrastructure.relay import RelayStatus
from infrastructure.telemetry.handles import MeteredHandle, TracedHandle
from infrastructure.telemetry.metrics import Metrics
from infrastructure.telemetry.tracing import NoTracer
from infrastructure.watchdogs import MemoryWatch

TASK = TaskMessage(task_id="t", parent_job_id="j", job_type="raster", task_type="cog", stage=1)
ERROR = ErrorInfo(type="E", message="m", retryable=False)


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    found = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found
            found[key] = sample.value
    return found


def handle_with(metrics: Metrics, outcome: Outcome, message: Message = TASK) -> None:
    def handle(message: Message, **_: Any) -> Outcome:
        return outcome

    assert TracedHandle(MeteredHandle(handle, metrics), NoTracer())(message) is outcome


def test_tasks_are_counted_by_type_and_outcome_and_measured() -> None:
    metrics = Metrics()
    handle_with(metrics, Finished(result={}))
    handle_with(metrics, Finished(result={}))
    handle_with(metrics, Failed(error=ERROR))
    handle_with(metrics, Superseded(reason="done"))
    handle_with(metrics, Deferred(delay=timedelta(0), reason="away"), JobMessage(job_id="j", job_type="raster"))
    found = samples(metrics)
    assert found["geoworker_tasks_total", (("outcome", "Finished"), ("task_type", "cog"))] == 2
    assert found["geoworker_tasks_total", (("outcome", "Failed"), ("task_type", "cog"))] == 1
    assert found["geoworker_redeliveries_total", ()] == 1
    assert found["geoworker_task_duration_seconds_count", (("task_type", "cog"),)] == 3
    labels = (("message_type", "job"), ("outcome", "Deferred"))
    assert found["geoworker_orchestration_messages_total", labels] == 1


def test_states_are_read_at_each_scrape() -> None:
    metrics = Metrics()
    counts, relay = HeartbeatCounts(), RelayStatus()
    children: list[dict[str, Any]] = []
    worker = {
        "running": True,
        "connected": False,
        "current_tasks": [{}],
        "received": 5,
        "retried": 1,
        "dead_lettered": 0,
        "settlements_lost": 0,
        "details": {"queue": "q", "lock_renewals": 4, "redelivered": 2, "locks_lost": 1},
    }
    metrics.watch_heartbeats(counts)
    metrics.watch_relay(relay)
    metrics.watch_workers({"queue_worker": lambda: worker, "jobs_worker": lambda: {**worker, "received": 7}})
    metrics.watch_pool(lambda: {"size": 3, "available": 1, "waiting": 0, "connections_lost": 2})
    metrics.watch_executor(
        lambda: {"children": children, "started": 4, "died": 1, "retired": 2, "stalled": 1, "stops": {"memory": 2}}
    )
    metrics.watch_memory(MemoryWatch())
    before = samples(metrics)
    assert before["geoworker_lease_renewals_total", ()] == 0
    assert before["geoworker_worker_received_total", (("worker", "jobs_worker"),)] == 7
    assert before["geoworker_worker_lock_renewals_total", (("worker", "jobs_worker"),)] == 4
    assert before["geoworker_worker_redelivered_total", (("worker", "queue_worker"),)] == 2
    assert before["geoworker_worker_locks_lost_total", (("worker", "queue_worker"),)] == 1
    assert before["geoworker_worker_connected", (("worker", "queue_worker"),)] == 0
    assert before["geoworker_children_died_total", ()] == 1
    assert before["geoworker_task_stalls_total", ()] == 1
    assert before["geoworker_task_stops_total", (("reason", "memory"),)] == 2
    assert before["geoworker_memory_limit_bytes", ()] > before["geoworker_memory_used_bytes", ()] > 0
    counts.renewed += 3
    counts.leases_lost += 1
    relay.sent += 10
    children.append({"resident_bytes": 100, "task": {"task_id": "t"}})
    children.append({"resident_bytes": None, "task": None})
    after = samples(metrics)
    assert after["geoworker_lease_renewals_total", ()] == 3
    assert after["geoworker_lease_losses_total", ()] == 1
    assert after["geoworker_relay_messages_sent_total", ()] == 10
    assert (after["geoworker_children", ()], after["geoworker_children_busy", ()]) == (2, 1)
    assert after["geoworker_children_resident_bytes", ()] == 100


def test_sweeps_are_counted_by_step() -> None:
    metrics = Metrics()
    metrics.swept(SweepReport(leases_expired=2, hints_resent=1))
    metrics.swept(SweepReport(leases_expired=1))
    found = samples(metrics)
    assert found["geoworker_sweeps_total", ()] == 2
    assert found["geoworker_swept_rows_total", (("step", "leases_expired"),)] == 3
    assert ("geoworker_swept_rows_total", (("step", "pruned"),)) not in found


def test_two_processes_worth_of_metrics_live_side_by_side() -> None:
    first, second = Metrics(), Metrics()
    handle_with(first, Finished(result={}))
    key = ("geoworker_tasks_total", (("outcome", "Finished"), ("task_type", "cog")))
    assert key in samples(first)
    assert key not in samples(second)


def test_an_exception_passes_through() -> None:
    def broken(message: Message, **_: Any) -> Outcome:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError):
        TracedHandle(MeteredHandle(broken, Metrics()), NoTracer())(TASK)

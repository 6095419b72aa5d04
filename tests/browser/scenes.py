"""Jobs in every state, written straight into the tables: what a busy day leaves behind."""

from __future__ import annotations

import json
from typing import Any

from core.jobs import job_fingerprint, task_id
from infrastructure.postgres.database import Connection, Database
from infrastructure.postgres.worker_store import PostgresWorkerStore, WorkerReport

Values = dict[str, Any]


def insert(connection: Connection, table: str, **values: Any) -> None:
    """One row; mappings become JSON, and text that begins with ``=`` is SQL."""
    names, places, given = [], [], {}
    for name, value in values.items():
        names.append(name)
        if isinstance(value, str) and value.startswith("="):
            places.append(value[1:])
            continue
        places.append(f"%({name})s")
        given[name] = json.dumps(value) if isinstance(value, dict | list) else value
    connection.execute(f"INSERT INTO app.{table} ({', '.join(names)}) VALUES ({', '.join(places)})".encode(), given)


def add_job(connection: Connection, name: str, job_type: str = "mosaic_docker", **values: Any) -> str:
    """A job that was created ``ago`` (an SQL interval)."""
    ago = values.pop("ago", "10 minutes")
    job_id = job_fingerprint(job_type, {"scene": name})
    facts: Values = {
        "job_id": job_id,
        "fingerprint": job_id,
        "job_type": job_type,
        "status": "processing",
        "stage": 1,
        "total_stages": 3,
        "parameters": {"scene": name},
        "failure_policy": "collect",
        "submitted_by": "api-key:1/Ana",
        "created_at": f"=now() - interval '{ago}'",
        "started_at": f"=now() - interval '{ago}'",
        "next_hint_at": "=now() + interval '1 year'",
    }
    insert(connection, "jobs", **{**facts, **values})
    return job_id


def add_stage(connection: Connection, job_id: str, number: int, total: int, **values: Any) -> None:
    """A planned stage."""
    facts: Values = {
        "job_id": job_id,
        "stage": number,
        "name": ("tile", "merge", "publish")[(number - 1) % 3],
        "task_type": "make_tile",
        "runs_on": "docker",
        "total": total,
        "remaining": total,
    }
    insert(connection, "stages", **{**facts, **values})


def add_task(connection: Connection, job_id: str, index: int, *, stage: int = 1, **values: Any) -> str:
    """A task."""
    made = task_id(job_id, stage, index)
    facts: Values = {
        "task_id": made,
        "job_id": job_id,
        "job_type": "mosaic_docker",
        "task_type": "make_tile",
        "stage": stage,
        "task_index": index,
        "runs_on": "docker",
        "status": "queued",
        "parameters": {"tile": index},
        "next_hint_at": "=now() + interval '1 year'",
        "execute_after": "=now() + interval '1 year'",
        "created_at": "=now() - interval '10 minutes'",
    }
    insert(connection, "tasks", **{**facts, **values})
    return made


def add_attempt(connection: Connection, task: str, attempt: int, start: str, end: str, **values: Any) -> None:
    """An ended attempt between two moments ago."""
    facts: Values = {
        "task_id": task,
        "attempt": attempt,
        "worker_id": f"worker-{attempt % 3 + 1}.example:7",
        "outcome": "completed",
        "started_at": f"=now() - interval '{start}'",
        "ended_at": f"=now() - interval '{end}'",
    }
    insert(connection, "task_attempts", **{**facts, **values})


FAULT = {
    "type": "TransientError",
    "message": "The server of the tiles answered 503 after 30 s",
    "retryable": True,
    "cause": "httpx.HTTPStatusError: Server error '503 Service Unavailable'",
    "details": {},
}
LOST = {
    "type": "ChildKilled",
    "message": "The kernel ended the child process: out of memory",
    "retryable": True,
    "code": "OOM_KILLED",
    "cause": "SIGKILL",
    "details": {"peak_bytes": 2_147_483_648, "signal": "SIGKILL"},
}
_LEASE = {"lease_owner": "worker-1.example:7", "lease_expires_at": "=now() + interval '1 day'", "execute_after": None}


def every_state(database: Database, name: str = "states", *, callback_url: str | None = None) -> str:
    """A running job with tasks in all eight states, and its history; the failed one's callback was given up."""

    def work(connection: Connection) -> str:
        job_id = add_job(connection, name)
        add_stage(connection, job_id, 1, 9, remaining=6, failed=1, created_at="=now() - interval '10 minutes'")
        done = {"status": "completed", "attempt": 1, "execute_after": None, "result_data": {"success": True}}
        for index in (0, 1):
            task = add_task(
                connection,
                job_id,
                index,
                **done,
                started_at="=now() - interval '9 minutes'",
                finished_at="=now() - interval '5 minutes'",
            )
            add_attempt(connection, task, 1, f"{9 - index} minutes", f"{5 - index} minutes")
        add_task(
            connection,
            job_id,
            2,
            status="processing",
            attempt=1,
            started_at="=now() - interval '4 minutes'",
            progress={
                "percent": 62.0,
                "message": "warping",
                "rate": 3.1e6,
                "unit": "px",
                "eta_seconds": 150,
                "done": 1,
                "total": 2,
            },
            **_LEASE,
        )
        task = add_task(
            connection,
            job_id,
            3,
            status="processing",
            attempt=2,
            interruptions=1,
            started_at="=now() - interval '3 minutes'",
            checkpoint_phase=2,
            checkpoint_data={"rows": 512},
            checkpoint_updated_at="=now() - interval '4 minutes'",
            **_LEASE,
        )
        add_attempt(connection, task, 1, "8 minutes", "4 minutes", outcome="interrupted", reason="drain")
        task = add_task(connection, job_id, 4, attempt=2, failures=2, error_details=FAULT)
        add_attempt(connection, task, 1, "8 minutes", "6 minutes", outcome="failed", error_details=FAULT)
        add_attempt(connection, task, 2, "4 minutes", "2 minutes", outcome="failed", error_details=FAULT)
        task = add_task(
            connection,
            job_id,
            5,
            attempt=1,
            interruptions=1,
            checkpoint_phase=1,
            checkpoint_updated_at="=now() - interval '3 minutes'",
        )
        add_attempt(connection, task, 1, "7 minutes", "3 minutes", outcome="interrupted", reason="drain")
        task = add_task(
            connection,
            job_id,
            6,
            status="failed",
            attempt=3,
            failures=3,
            error_details=LOST,
            callback_url=callback_url,
            execute_after=None,
            started_at="=now() - interval '4 minutes'",
            finished_at="=now() - interval '2 minutes'",
        )
        add_attempt(connection, task, 1, "9 minutes", "8 minutes", outcome="failed", error_details=LOST)
        add_attempt(connection, task, 2, "7 minutes", "5 minutes", outcome="lease_expired", error_details=FAULT)
        add_attempt(connection, task, 3, "4 minutes", "2 minutes", outcome="failed", error_details=LOST)
        add_task(connection, job_id, 7)
        add_task(
            connection, job_id, 8, status="cancelled", execute_after=None, finished_at="=now() - interval '1 minute'"
        )
        insert(
            connection,
            "outbox",
            channel="callbacks",
            message={"message_type": "task_ended", "task_id": task, "parent_job_id": job_id},
            job_id=job_id,
            task_id=task,
            tries=7,
            last_error="https://hooks.example.org answered 500",
            given_up_at="=now() - interval '1 minute'",
        )
        return job_id

    return database.run(work)


def large_job(database: Database, name: str, tasks: int, *, with_failures: bool = True) -> str:
    """A running job with one stage of many tasks, most of them done."""

    def work(connection: Connection) -> str:
        job_id = add_job(connection, name, ago="20 minutes")
        add_stage(
            connection,
            job_id,
            1,
            tasks,
            remaining=tasks // 4,
            failed=12 if with_failures else 0,
            created_at="=now() - interval '20 minutes'",
        )
        connection.execute(
            """INSERT INTO app.tasks (task_id, job_id, job_type, task_type, stage, task_index, runs_on, status, attempt,
                                      parameters, created_at, started_at, finished_at, error_details, execute_after,
                                      next_hint_at)
               SELECT app.task_id(%(job_id)s, 1, i), %(job_id)s, 'mosaic_docker', 'make_tile', 1, i, 'docker',
                      CASE WHEN i >= %(n)s * 3 / 4 THEN 'queued' WHEN %(bad)s AND i %% 613 = 5 THEN 'failed'
                           ELSE 'completed' END,
                      CASE WHEN i >= %(n)s * 3 / 4 THEN 0 ELSE 1 END, jsonb_build_object('tile', i),
                      now() - interval '20 minutes', now() - interval '19 minutes' * (1 - i / %(n)s::float8),
                      CASE WHEN i < %(n)s * 3 / 4 THEN now() - interval '18.8 minutes' * (1 - i / %(n)s::float8) END,
                      CASE WHEN i < %(n)s * 3 / 4 AND %(bad)s AND i %% 613 = 5 THEN %(fault)s::jsonb END,
                      CASE WHEN i >= %(n)s * 3 / 4 THEN now() + interval '1 year' END, now() + interval '1 year'
               FROM generate_series(0, %(n)s - 1) AS i""",
            {"job_id": job_id, "n": tasks, "bad": with_failures, "fault": json.dumps(FAULT)},
        )
        connection.execute(
            """INSERT INTO app.task_attempts (task_id, attempt, worker_id, outcome, started_at, ended_at, error_details)
               SELECT task_id, 1, 'worker-' || 1 + task_index %% 4 || '.example:7', status, started_at,
                      finished_at, error_details
               FROM app.tasks WHERE job_id = %(job_id)s AND finished_at IS NOT NULL""",
            {"job_id": job_id},
        )
        return job_id

    return database.run(work)


def many_jobs(database: Database, count: int) -> None:
    """Ended jobs of several types and statuses over the last months."""
    database.run(
        lambda connection: connection.execute(
            """INSERT INTO app.jobs (job_id, fingerprint, job_type, status, stage, total_stages, parameters,
                                     failure_policy, created_at, started_at, finished_at, error_details, submitted_by)
               SELECT k, k,
                      (ARRAY['process_raster_docker', 'process_raster_v2', 'bootstrap_h3_docker',
                             'mosaic_docker'])[1 + i %% 4],
                      (ARRAY['completed', 'completed', 'completed', 'failed', 'completed_with_errors',
                             'cancelled'])[1 + i %% 6],
                      1, 1, '{}', 'fail_fast', at, at, at + interval '90 seconds',
                      CASE WHEN i %% 6 = 3 THEN %(fault)s::jsonb END, 'nightly'
               FROM (SELECT i, encode(sha256(convert_to('many' || i, 'UTF8')), 'hex') AS k,
                            now() - i * interval '1 minute' AS at
                     FROM generate_series(1, %(n)s) AS i) AS jobs""",
            {"n": count, "fault": json.dumps(FAULT)},
        )
    )
    database.run(lambda connection: connection.execute("ANALYZE app.jobs"))


def other_worker(database: Database, worker_id: str = "worker-1.example:7", version: str = "0.0.9") -> None:
    """A process of another version that has just reported."""
    facts = {
        "host": "worker-1.example",
        "pid": 7,
        "loops": {
            "queue_worker": {
                "running": True,
                "connected": True,
                "messages_processed": 1289,
                "last_poll_at": "2026-01-31T12:00:00+00:00",
                "dead_lettered": 1,
                "last_error": None,
            }
        },
        "memory": {"resident_bytes": 182_000_000, "used_bytes": 3_900_000_000, "limit_bytes": 8_000_000_000},
        "children": [{"resident_bytes": 1_400_000_000}],
        "pool": {"size": 4, "available": 1, "waiting": 0, "max_size": 10},
        "relay": {"sent": 4211, "failed": 3, "given_up": 1},
    }
    report = WorkerReport(
        worker_id=worker_id, role="worker", mode="service_bus", version=version, state="running", facts=facts
    )
    PostgresWorkerStore(database).report(report, first=True)

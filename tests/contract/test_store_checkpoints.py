"""CheckpointStore contract (the fence is in test_store_claims)."""

from __future__ import annotations

from datetime import timedelta

import pytest

from core.records import Checkpoint, Progress
from tests.contract.stores import LEASE, MINUTE, TRANSIENT, Given


def test_a_fresh_task_has_an_empty_checkpoint(given: Given) -> None:
    job = given.running_job(1)
    claim = given.claim(job.job_id)
    assert given.checkpoints.load_checkpoint(claim) == Checkpoint()
    assert given.checkpoints.load_items(claim, 1) == {}
    task = given.task_now(job.job_id)
    assert task.checkpoint_phase is task.checkpoint_data is task.checkpoint_updated_at is None


def test_a_checkpoint_comes_back_whole(given: Given) -> None:
    job = given.running_job(1)
    claim = given.claim(job.job_id)
    saved = Checkpoint(
        phase=2,
        data={"rows": [1, 2], "nested": {"a": None}},
        cursor={"row": 7},
        artifacts={"/tmp/a.tif": {"size": 3, "sha256": "ab", "phase": 1}},
        schema_version=4,
    )
    given.checkpoints.save_checkpoint(claim, saved)
    assert given.checkpoints.load_checkpoint(claim) == saved
    task = given.task_now(job.job_id)
    assert (task.checkpoint_phase, task.checkpoint_data) == (2, saved.data)
    assert task.checkpoint_updated_at is not None
    without = Checkpoint(phase=3, data={}, schema_version=4)
    given.checkpoints.save_checkpoint(claim, without)
    assert given.checkpoints.load_checkpoint(claim) == without


@pytest.mark.parametrize("ending", ["release", "retry", "lease"])
def test_the_next_attempt_finds_what_the_last_one_saved(given: Given, ending: str) -> None:
    job = given.running_job(1)
    claim = given.claim(job.job_id)
    saved = Checkpoint(phase=1, data={"a": 1}, cursor={"b": 2})
    given.checkpoints.save_checkpoint(claim, saved)
    given.checkpoints.save_items(claim, 2, {"x": {"n": 1}})
    if ending == "release":
        given.state.release_task(claim, reason="drain")
    elif ending == "retry":
        given.state.fail_task(claim, TRANSIENT, retry_in=timedelta(0))
    else:
        given.advance(LEASE + MINUTE)
        given.sweeps.sweep(limit=10)
        given.advance(MINUTE)
    again = given.claim(job.job_id)
    assert again.attempt == 2
    assert given.checkpoints.load_checkpoint(again) == saved
    assert given.checkpoints.load_items(again, 2) == {"x": {"n": 1}}


def test_items_are_kept_by_phase_and_the_first_record_stays(given: Given) -> None:
    job = given.running_job(2)
    claim, other = given.claim(job.job_id, 0), given.claim(job.job_id, 1)
    given.checkpoints.save_items(claim, 1, {"a": {"n": 1}, "b": {}})
    given.checkpoints.save_items(claim, 1, {"a": {"n": 2}, "c": {"n": 3}})
    given.checkpoints.save_items(claim, 2, {"a": {"n": 9}})
    given.checkpoints.save_items(claim, 2, {})
    assert given.checkpoints.load_items(claim, 1) == {"a": {"n": 1}, "b": {}, "c": {"n": 3}}
    assert given.checkpoints.load_items(claim, 2) == {"a": {"n": 9}}
    assert given.checkpoints.load_items(other, 1) == {}


def test_ten_thousand_items_are_saved_at_once(given: Given) -> None:
    claim = given.claim(given.running_job(1).job_id)
    items = {f"tile-{i}": {"i": i} for i in range(10_000)}
    given.checkpoints.save_items(claim, 1, items)
    assert given.checkpoints.load_items(claim, 1) == items


def test_clearing_forgets_the_checkpoint_and_its_items(given: Given) -> None:
    job = given.running_job(2)
    claim, other = given.claim(job.job_id, 0), given.claim(job.job_id, 1)
    for one in (claim, other):
        given.checkpoints.save_checkpoint(one, Checkpoint(phase=1, data={"a": 1}))
        given.checkpoints.save_items(one, 1, {"x": {}})
    given.checkpoints.clear_checkpoint(claim)
    assert given.checkpoints.load_checkpoint(claim) == Checkpoint()
    assert given.checkpoints.load_items(claim, 1) == {}
    assert given.task_now(job.job_id).checkpoint_phase is None
    assert given.checkpoints.load_checkpoint(other).phase == 1
    assert given.checkpoints.load_items(other, 1) == {"x": {}}


def test_progress_comes_back_whole(given: Given) -> None:
    job = given.running_job(1)
    claim = given.claim(job.job_id)
    progress = Progress(percent=12.5, message="reading\x00", done=1, total=8, unit="tiles", rate=0.5, eta_seconds=14)
    given.checkpoints.save_progress(claim, progress)
    task = given.task_now(job.job_id)
    assert task.progress == Progress(
        percent=12.5, message="reading\ufffd", done=1, total=8, unit="tiles", rate=0.5, eta_seconds=14
    )
    assert task.progress_at is not None


def test_odd_characters_are_kept_as_the_replacement_character(given: Given) -> None:
    claim = given.claim(given.running_job(1).job_id)
    given.checkpoints.save_items(claim, 1, {"a\x00\ud800": {"p\x00": "\udfff"}})
    assert given.checkpoints.load_items(claim, 1) == {"a\ufffd\ufffd": {"p\ufffd": "\ufffd"}}
    given.checkpoints.save_checkpoint(claim, Checkpoint(data={"p": "\x00"}, cursor={"q": "\ud83d"}))
    assert given.checkpoints.load_checkpoint(claim) == Checkpoint(data={"p": "\ufffd"}, cursor={"q": "\ufffd"})

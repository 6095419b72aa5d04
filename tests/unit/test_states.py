"""The tables of transitions."""

from __future__ import annotations

import pytest

from core.errors import IllegalTransition
from core.states import (
    JOB_TRANSITIONS,
    TASK_TRANSITIONS,
    TERMINAL_JOB_STATUSES,
    TERMINAL_TASK_STATUSES,
    JobStatus,
    TaskStatus,
    check_job,
    check_task,
)


@pytest.mark.parametrize("before", TaskStatus)
@pytest.mark.parametrize("after", TaskStatus)
def test_a_task_goes_only_where_the_table_says(before: TaskStatus, after: TaskStatus) -> None:
    if after in TASK_TRANSITIONS[before]:
        check_task(before, after)
    else:
        with pytest.raises(IllegalTransition, match=f"from {before} to {after}"):
            check_task(before, after)


@pytest.mark.parametrize("before", JobStatus)
@pytest.mark.parametrize("after", JobStatus)
def test_a_job_goes_only_where_the_table_says(before: JobStatus, after: JobStatus) -> None:
    if after in JOB_TRANSITIONS[before]:
        check_job(before, after)
    else:
        with pytest.raises(IllegalTransition, match=f"from {before} to {after}"):
            check_job(before, after)


def test_terminal_is_terminal() -> None:
    assert set(TERMINAL_TASK_STATUSES) == {TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED}
    assert set(TERMINAL_JOB_STATUSES) == {
        JobStatus.COMPLETED,
        JobStatus.COMPLETED_WITH_ERRORS,
        JobStatus.FAILED,
        JobStatus.CANCELLED,
    }


def test_every_status_is_reachable_and_every_open_one_can_end() -> None:
    assert set().union(*TASK_TRANSITIONS.values()) | {TaskStatus.PENDING} == set(TaskStatus)
    for status, following in TASK_TRANSITIONS.items():
        assert status in TERMINAL_TASK_STATUSES or following & TERMINAL_TASK_STATUSES

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from core.errors import ErrorInfo
from core.records import Claim
from testing.mock_state_manager import MockStateManager


@pytest.fixture
def store() -> MockStateManager:
    """A store with one task that can be claimed again and again."""
    manager = MockStateManager()
    manager.create_test_job("job-1", "test")
    manager.create_test_task("task-1", "job-1", "any", max_attempts=1000)
    return manager


@pytest.fixture
def next_claim(store: MockStateManager) -> Callable[[], Claim]:
    """The claim of the next attempt; the attempt before has failed then."""
    held: list[Claim] = []

    def claim() -> Claim:
        if held:
            error = ErrorInfo(type="Crash", message="crashed", retryable=True)
            store.fail_task(held.pop(), error, retry_in=timedelta(0))
        claimed = store.claim_task("task-1", worker_id="worker", lease=timedelta(seconds=60))
        assert isinstance(claimed, Claim)
        held.append(claimed)
        return claimed

    return claim

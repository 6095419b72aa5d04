"""The public test kit: run handlers and whole jobs in memory, look at what they leave behind, and inject faults.

Everything here is loaded when it is first asked for: importing this package imports no azure, psycopg or rasterio.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from testing.clock import Clock, ManualClock
    from testing.emulator import ServiceBusEmulator
    from testing.faults import (
        CrashAtCheckpoint,
        CrashAtItem,
        DuplicateMessages,
        FailAtCheckpoint,
        LoseLeaseAtCheckpoint,
        LoseMessages,
        StopAtPhase,
        StopAtProgress,
        WorkerCrashed,
    )
    from testing.mock_service_bus import MockServiceBusRepository
    from testing.mock_state_manager import MockStateManager
    from testing.test_core_machine import (
        create_test_core_machine,
        create_workbench,
        run_job,
        setup_single_task_test,
    )
    from testing.workbench import FaultDidNotFire, JobDidNotEnd, JobRun, Workbench

_HOMES = {
    "Clock": "testing.clock",
    "CrashAtCheckpoint": "testing.faults",
    "CrashAtItem": "testing.faults",
    "DuplicateMessages": "testing.faults",
    "FailAtCheckpoint": "testing.faults",
    "FaultDidNotFire": "testing.workbench",
    "JobDidNotEnd": "testing.workbench",
    "JobRun": "testing.workbench",
    "LoseLeaseAtCheckpoint": "testing.faults",
    "LoseMessages": "testing.faults",
    "ManualClock": "testing.clock",
    "MockServiceBusRepository": "testing.mock_service_bus",
    "MockStateManager": "testing.mock_state_manager",
    "ServiceBusEmulator": "testing.emulator",
    "StopAtPhase": "testing.faults",
    "StopAtProgress": "testing.faults",
    "Workbench": "testing.workbench",
    "WorkerCrashed": "testing.faults",
    "create_test_core_machine": "testing.test_core_machine",
    "create_workbench": "testing.test_core_machine",
    "run_job": "testing.test_core_machine",
    "setup_single_task_test": "testing.test_core_machine",
}

__all__ = [
    "Clock",
    "CrashAtCheckpoint",
    "CrashAtItem",
    "DuplicateMessages",
    "FailAtCheckpoint",
    "FaultDidNotFire",
    "JobDidNotEnd",
    "JobRun",
    "LoseLeaseAtCheckpoint",
    "LoseMessages",
    "ManualClock",
    "MockServiceBusRepository",
    "MockStateManager",
    "ServiceBusEmulator",
    "StopAtPhase",
    "StopAtProgress",
    "Workbench",
    "WorkerCrashed",
    "create_test_core_machine",
    "create_workbench",
    "run_job",
    "setup_single_task_test",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

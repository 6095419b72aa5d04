"""What ``CheckpointManager(task_id, task_repo)`` takes as its second argument."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.errors import Fault, InvalidInput

if TYPE_CHECKING:
    from infrastructure.checkpoint_manager import CheckpointManager


class TaskRepository:
    """The tasks that this execution may write to: one, its own. ``context.task_repo`` in a handler.

    A checkpoint is written in the name of a claim, so that an execution that lost its task cannot overwrite its
    successor's; an id alone is no such right.
    """

    def __init__(self, task_id: str, checkpoint: CheckpointManager) -> None:
        self._task_id = task_id
        self._checkpoint = checkpoint

    def checkpoint_of(self, task_id: str) -> CheckpointManager:
        """The checkpoint of the task that runs here.

        Raises:
            InvalidInput: when ``task_id`` names another task.
        """
        if task_id != self._task_id:
            raise InvalidInput(
                "checkpoint", [Fault("task_id", f"must be {self._task_id}, the task that runs here", task_id)]
            )
        return self._checkpoint

"""Handlers: the functions that do the work, and the registry that names them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from core.docker_context import DockerTaskContext
from core.errors import ConfigurationError, Fault, InvalidInput, UnknownTaskType

M = TypeVar("M", bound=BaseModel)

HandlerResult = Mapping[str, Any]
"""``{"success": true, ...}``, or ``{"success": true, "interrupted": true}`` after a stop, or ``{"success": false,
"error": "...", "retryable": false}``. JSON-serialisable."""

HandlerFunction = Callable[..., HandlerResult]
"""``handler(params, context)``, or the older ``handler(params)`` that finds ``_docker_context``, ``_task_id``,
``_job_id``, ``_job_type``, ``_stage`` and ``_task_repo`` among its parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerSpec:
    """A task type: its handler, the model of its parameters and its default time limit.

    With ``parameters`` the handler receives an instance of that model, without it the plain mapping.
    """

    task_type: str
    handler: HandlerFunction
    parameters: type[BaseModel] | None = None
    timeout_seconds: float | None = None
    description: str = ""
    takes_context: bool = field(init=False, repr=False)  # whether the handler has the two-argument form

    def __post_init__(self) -> None:
        positional = [
            parameter
            for parameter in inspect.signature(self.handler).parameters.values()
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        ]
        object.__setattr__(self, "takes_context", len(positional) > 1)

    def call(self, parameters: Mapping[str, Any], context: DockerTaskContext) -> HandlerResult:
        """Validate ``parameters`` and run the handler.

        Raises:
            InvalidInput: when the parameters do not fit the model; every fault is named.
        """
        checked: Any = dict(parameters)
        if self.parameters is not None:
            checked = validate(self.parameters, parameters, subject=f"parameters of {self.task_type}")
        if self.takes_context:
            return self.handler(checked, context)
        plain = checked.model_dump(mode="json") if isinstance(checked, BaseModel) else checked
        return self.handler(
            {
                **plain,
                "_docker_context": context,
                "_task_id": context.task_id,
                "_job_id": context.job_id,
                "_job_type": context.job_type,
                "_stage": context.stage,
                "_task_repo": context.task_repo,
            }
        )


class HandlerRegistry(Mapping[str, HandlerSpec]):
    """Task types by name. A value: built once, passed in, never changed."""

    def __init__(self, specs: Iterable[HandlerSpec]) -> None:
        self._specs: dict[str, HandlerSpec] = {}
        for spec in specs:
            if spec.task_type in self._specs:
                raise ConfigurationError(
                    "handler registry",
                    [Fault("task_type", f"{spec.task_type!r} is registered twice", spec.task_type)],
                )
            self._specs[spec.task_type] = spec

    def __getitem__(self, task_type: str) -> HandlerSpec:
        try:
            return self._specs[task_type]
        except KeyError:
            raise UnknownTaskType(task_type, list(self._specs)) from None

    def __contains__(self, task_type: object) -> bool:
        return task_type in self._specs

    def __iter__(self) -> Iterator[str]:
        return iter(self._specs)

    def __len__(self) -> int:
        return len(self._specs)


def validate(model: type[M], parameters: Mapping[str, Any], *, subject: str) -> M:
    """``parameters`` as an instance of ``model``.

    Raises:
        InvalidInput: naming every field at fault, what is wrong with it and what was given.
    """
    try:
        return model.model_validate(dict(parameters))
    except ValidationError as error:
        raise InvalidInput(
            subject,
            [
                Fault(
                    ".".join(str(part) for part in fault["loc"]) or "parameters",
                    fault["msg"],
                    None if fault["type"] == "missing" else _json_ready(fault.get("input")),
                )
                for fault in error.errors(include_url=False)
            ],
        ) from error


def _json_ready(value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 200 else text[:200] + "…"

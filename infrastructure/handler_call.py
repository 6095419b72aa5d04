"""Calling a handler: its result is checked, and whatever it raises becomes a recorded cause."""

from __future__ import annotations

import json
import traceback
from collections.abc import Mapping
from typing import Any

from core.docker_context import DockerTaskContext
from core.errors import (
    ClaimLost,
    ErrorInfo,
    HandlerError,
    InvalidInput,
    PermanentError,
    StoreUnavailable,
    TransientError,
)
from core.handlers import HandlerSpec
from core.ports import Execution, Raised, Returned
from infrastructure.json_text import is_simple, loads
from infrastructure.redaction import json_ready, redact

_MAX_MESSAGE = 4_000
_MAX_TRACEBACK = 8_000
MAX_RESULT_BYTES = 16 * 1024 * 1024

# The same call would fail again: faults of the input or of the handler's own code.
_PERMANENT = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    NameError,
    ArithmeticError,
    AssertionError,
    NotImplementedError,
    ImportError,
    FileNotFoundError,
    NotADirectoryError,
    IsADirectoryError,
    PermissionError,
)


def call_handler(spec: HandlerSpec, parameters: Mapping[str, Any], context: DockerTaskContext) -> Execution:
    """Run a handler to an Execution.

    Raises:
        ClaimLost: when a fenced write inside the handler found another attempt in charge.
    """
    try:
        result = spec.call(parameters, context)
    except ClaimLost:
        raise
    except BaseException as error:  # noqa: BLE001 - a handler cannot hurt the worker, whatever it raises
        retry_after = error.retry_after if isinstance(error, TransientError) else None
        return Raised(error=describe(error), retry_after=retry_after)
    return checked_result(spec.task_type, result)


def checked_result(task_type: str, result: Any) -> Execution:
    """A handler's return value as an Execution: a mapping with a boolean ``success`` that JSON can hold."""
    if not isinstance(result, Mapping):
        return _violation(task_type, f"returned {type(result).__name__}, not a mapping")
    try:
        if not isinstance(result.get("success"), bool) and not result.get("interrupted"):
            return _violation(task_type, "returned no boolean 'success'")
        given = dict(result)
        text = None if is_simple(given) else _encode(given)
    except Exception as error:  # noqa: BLE001 - the values' own code runs here
        return _violation(task_type, f"returned what JSON cannot hold: {_text(error)}")
    if text is not None and len(text) > MAX_RESULT_BYTES:
        return _violation(task_type, f"returned {len(text)} bytes of result; at most {MAX_RESULT_BYTES} are kept")
    plain: dict[str, Any] = given if text is None else loads(text)
    if plain.get("interrupted") or plain["success"]:
        return Returned(result=plain)
    message = plain.get("error") or plain.get("message") or "the handler reported failure and gave no error"
    return Raised(
        error=ErrorInfo(
            type=str(plain.get("error_type") or "HandlerFailure"),
            message=redact(str(message))[:_MAX_MESSAGE],
            retryable=plain.get("retryable") is True,
            code=plain.get("code") if isinstance(plain.get("code"), str) else None,
            details={"result": json_ready(plain)},
        )
    )


def describe(error: BaseException) -> ErrorInfo:
    """An exception as it is recorded: redacted, bounded, with the cause it was raised from."""
    match error:
        case InvalidInput():
            return _info(error, retryable=False, details={"faults": [fault.as_dict() for fault in error.faults]})
        case PermanentError():
            return _info(error, retryable=False, code=error.code, details=error.details)
        case TransientError():
            return _info(error, retryable=True, code=error.code)
        case HandlerError() | StoreUnavailable():
            return _info(error, retryable=True)
        case _:
            return _info(error, retryable=not isinstance(error, _PERMANENT), trace=True)


def _info(
    error: BaseException,
    *,
    retryable: bool,
    code: str | None = None,
    details: Mapping[str, Any] | None = None,
    trace: bool = False,
) -> ErrorInfo:
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return ErrorInfo(
        type=type(error).__name__,
        message=redact(_text(error) or type(error).__name__)[:_MAX_MESSAGE],
        retryable=retryable,
        code=code if isinstance(code, str) else None,
        cause=None if cause is None else redact(f"{type(cause).__name__}: {_text(cause)}")[:_MAX_MESSAGE],
        traceback=redact(_traceback(error))[-_MAX_TRACEBACK:] if trace else None,
        details=json_ready(details or {}),
    )


def _traceback(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error, limit=-40))
    except Exception:  # noqa: BLE001 - the frames' own source may be gone
        return "(the traceback cannot be shown)"


def _text(error: BaseException) -> str:
    try:
        if isinstance(error, SystemExit):
            return f"the handler called sys.exit({error.code!r})"
        return str(error)
    except Exception:  # noqa: BLE001 - an exception whose text fails is still an exception
        return "(the exception has no readable text)"


def _plain(value: object) -> object:
    """numpy scalars, paths, moments, sets and mappings as JSON knows them."""
    item = getattr(value, "item", None)
    if callable(item) and getattr(value, "shape", None) == ():
        return item()
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "__fspath__"):
        return str(value)
    isoformat = getattr(value, "isoformat", None)
    if callable(isoformat):
        return isoformat()
    raise TypeError(f"{type(value).__name__} has no JSON form")


_encode = json.JSONEncoder(allow_nan=False, default=_plain).encode


def _violation(task_type: str, what: str) -> Raised:
    return Raised(error=ErrorInfo(type="ContractViolation", message=f"handler {task_type!r} {what}", retryable=False))

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from infrastructure.telemetry.context import (
    bound,
    current_ids,
    new_traceparent,
    trace_ids,
    valid_traceparent,
    within_trace,
)
from infrastructure.telemetry.logs import configure_logging


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_lines_carry_extras_and_the_ids_of_the_running_task(stream: io.StringIO) -> None:
    configure_logging("INFO", as_json=True, stream=stream)
    traceparent = new_traceparent()
    with within_trace(traceparent), bound(task_id="t-1", job_id="j-1", attempt=2):
        logging.getLogger("a.b").info("tile %d done", 7, extra={"action": "tile.done", "odd": object()})
    (line,) = lines(stream)
    assert (line["level"], line["logger"], line["message"]) == ("INFO", "a.b", "tile 7 done")
    assert (line["task_id"], line["job_id"], line["attempt"], line["action"]) == ("t-1", "j-1", 2, "tile.done")
    assert line["trace_id"] == traceparent.split("-")[1]
    assert str(line["time"]).endswith("+00:00")


def test_a_record_that_names_its_own_task_keeps_it(stream: io.StringIO) -> None:
    configure_logging("INFO", as_json=True, stream=stream)
    with bound(task_id="outer"):
        logging.getLogger().warning("x", extra={"task_id": "its own"})
    assert lines(stream)[0]["task_id"] == "its own"


def test_secrets_leave_valid_json_without_them(stream: io.StringIO) -> None:
    configure_logging("INFO", as_json=True, stream=stream)
    logging.getLogger().error(
        'url "https://x/y?sig=S3CRET" and AccountKey=S3CRET',
        extra={"url": "postgresql://u:S3CRET@h/d", "password": "S3CRET"},
    )
    try:
        raise OSError("Authorization: Bearer S3CRETS3CRET")
    except OSError:
        logging.getLogger().exception("failed")
    first, second = lines(stream)
    assert "S3CRET" not in stream.getvalue()
    assert first["password"] == "***"
    assert "OSError" in str(second["exception"])


def test_the_console_form_is_readable(stream: io.StringIO) -> None:
    configure_logging("DEBUG", as_json=False, stream=stream)
    with bound(task_id="0123456789abcdef", attempt=3):
        logging.getLogger("x").debug("half way, password=S3CRET")
    text = stream.getvalue()
    assert "DEBUG   half way, password=***  task=0123456789ab  attempt=3" in text


def test_the_level_holds(stream: io.StringIO) -> None:
    configure_logging("WARNING", as_json=True, stream=stream)
    logging.getLogger("a").info("quiet")
    logging.getLogger("a").warning("loud")
    assert [line["message"] for line in lines(stream)] == ["loud"]


def test_ids_nest_and_end_with_their_block() -> None:
    with bound(job_id="j"):
        with bound(task_id="t"):
            assert current_ids() == {"job_id": "j", "task_id": "t"}
        assert current_ids() == {"job_id": "j"}
    assert current_ids() == {}


@pytest.mark.parametrize("text", [None, "", "nonsense", "00-xyz-1-01", "00-" + "0" * 32 + "-" + "0" * 16])
def test_what_is_no_traceparent_is_none(text: str | None) -> None:
    assert valid_traceparent(text) is None
    assert trace_ids(text) == {}


def test_a_new_traceparent_is_valid_and_sampled() -> None:
    traceparent = new_traceparent()
    assert valid_traceparent(traceparent) == traceparent
    assert traceparent.endswith("-01")
    assert traceparent != new_traceparent()

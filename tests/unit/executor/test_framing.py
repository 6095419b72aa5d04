from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.errors import ErrorInfo
from core.ports import Raised, Returned, Stopped
from core.records import Claim, RunsOn, TaskRecord
from core.states import TaskStatus
from infrastructure.process_executor.codec import (
    claim_from_json,
    claim_to_json,
    execution_from_json,
    execution_to_json,
)
from infrastructure.process_executor.framing import ChannelBroken, FrameChannel


@pytest.fixture
def ends() -> Iterator[tuple[FrameChannel, socket.socket]]:
    ours, theirs = socket.socketpair()
    channel = FrameChannel(ours)
    yield channel, theirs
    channel.close()
    theirs.close()


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(frames=st.lists(st.dictionaries(st.text(), _VALUES), max_size=5), cut=st.integers(1, 50))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_frames_arrive_whole_however_the_stream_is_cut(frames: list[dict[str, object]], cut: int) -> None:
    ours, theirs = socket.socketpair()
    relay_in, relay_out = socket.socketpair()
    sender, receiver = FrameChannel(ours), FrameChannel(relay_out)
    typed = [{**frame, "type": "x"} for frame in frames]

    def send() -> None:
        for frame in typed:
            sender.send(frame)
        sender.close()

    def relay() -> None:
        while piece := theirs.recv(cut):
            relay_in.sendall(piece)
        relay_in.close()

    threads = [threading.Thread(target=send), threading.Thread(target=relay)]
    for thread in threads:
        thread.start()
    assert [receiver.receive() for _ in typed] == typed
    with pytest.raises(ChannelBroken):
        receiver.receive()
    for thread in threads:
        thread.join()
    receiver.close()
    theirs.close()


@pytest.mark.parametrize(
    "bytes_sent",
    [struct.pack("!I", 5) + b"{nope", struct.pack("!I", 2) + b"[]", struct.pack("!I", 2) + b"{}", b"\xff" * 8],
    ids=["no json", "no object", "no type", "too long"],
)
def test_what_is_no_frame_breaks_the_channel(ends: tuple[FrameChannel, socket.socket], bytes_sent: bytes) -> None:
    channel, theirs = ends
    theirs.sendall(bytes_sent)
    with pytest.raises(ChannelBroken):
        channel.receive()


def test_frames_of_many_threads_do_not_mix(ends: tuple[FrameChannel, socket.socket]) -> None:
    channel, theirs = ends
    receiver = FrameChannel(theirs)

    def send(name: str) -> None:
        for number in range(50):
            channel.send({"type": name, "number": number, "filling": name * 5000})

    threads = [threading.Thread(target=send, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    got = [receiver.receive() for _ in range(150)]
    for thread in threads:
        thread.join()
    for name in "abc":
        assert [frame["number"] for frame in got if frame["type"] == name] == list(range(50))


def test_a_fork_sends_nothing(ends: tuple[FrameChannel, socket.socket]) -> None:
    channel, theirs = ends
    pid = os.fork()
    if pid == 0:
        try:
            channel.send({"type": "from the fork"})
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    channel.send({"type": "from the owner"})
    assert FrameChannel(theirs).receive() == {"type": "from the owner"}


def test_a_reused_descriptor_is_not_written_to(ends: tuple[FrameChannel, socket.socket]) -> None:
    channel, _ = ends
    number = channel.fileno()
    other, far = socket.socketpair()
    os.dup2(other.fileno(), number)
    with pytest.raises(ChannelBroken):
        channel.send({"type": "x"})
    far.setblocking(False)
    with pytest.raises(BlockingIOError):
        far.recv(1)
    other.close()
    far.close()


def test_claims_and_executions_survive_the_channel() -> None:
    task = TaskRecord(
        task_id="t",
        job_id="j",
        job_type="raster",
        task_type="cog",
        stage=2,
        task_index=7,
        runs_on=RunsOn.DOCKER,
        status=TaskStatus.PROCESSING,
        parameters={"a": [1, {"b": None}]},
        attempt=3,
        failures=2,
        timeout_seconds=5.5,
        traceparent="00-1-2-01",
    )
    claim = Claim(task=task, attempt=3, worker_id="w", lease=timedelta(seconds=60))
    assert claim_from_json(claim_to_json(claim)) == claim
    error = ErrorInfo(type="T", message="m", retryable=True, code="C", cause="c", traceback="t", details={"x": 1})
    for execution in (
        Returned(result={"success": True}),
        Raised(error=error, retry_after=timedelta(seconds=3)),
        Raised(error=error),
        Stopped(detail="d"),
    ):
        assert execution_from_json(execution_to_json(execution)) == execution


@pytest.mark.parametrize(
    "frame", [{"type": "returned"}, {"type": "raised", "error": {}, "retry_after": None}, {"type": "other"}]
)
def test_malformed_executions_break_the_channel(frame: dict[str, object]) -> None:
    with pytest.raises(ChannelBroken):
        execution_from_json(frame)

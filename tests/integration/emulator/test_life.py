"""Starting, stopping, and running as a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from azure.servicebus import ServiceBusClient, ServiceBusMessage

from core.errors import ConfigurationError
from testing.emulator import DEFAULT_QUEUES, ServiceBusEmulator, run

ROOT = Path(__file__).parents[3]


@pytest.fixture
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    left = [thread for thread in threading.enumerate() if thread not in before and "emulator" in thread.name]
    assert not left


@pytest.mark.usefixtures("no_thread_is_left")
def test_it_serves_the_projects_queues_by_default_and_leaves_no_thread() -> None:
    with ServiceBusEmulator() as emulator:
        assert [queue.name for queue in emulator.config.queues] == list(DEFAULT_QUEUES)
        assert emulator.port > 0
        assert f"sb://127.0.0.1:{emulator.port};" in emulator.connection_string
        assert emulator.connection_string.endswith("UseDevelopmentEmulator=true;")
        assert "SAS_KEY_VALUE" not in repr(emulator.config)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((emulator.host, emulator.port), timeout=1)


def test_stopping_resets_clients_and_may_be_repeated() -> None:
    emulator = ServiceBusEmulator().start()
    with socket.create_connection((emulator.host, emulator.port), timeout=5) as stream:
        emulator.wait_until(lambda one: one.connections() == 1)
        emulator.stop()
        with pytest.raises(ConnectionResetError):
            stream.recv(1)
    emulator.stop()
    with pytest.raises(RuntimeError, match="not running"):
        emulator.counts("geospatial-tasks")


def test_it_starts_again_empty_on_the_same_port() -> None:
    emulator = ServiceBusEmulator()
    with emulator:
        port = emulator.port
        emulator.send("geospatial-tasks", "x")
        with pytest.raises(RuntimeError, match="running already"):
            emulator.start()
    with emulator:
        assert emulator.port == port
        assert emulator.message_count("geospatial-tasks") == 0


@pytest.mark.usefixtures("no_thread_is_left")
def test_a_taken_port_is_an_error_at_the_start() -> None:
    with ServiceBusEmulator() as first, pytest.raises(OSError, match="in use"):
        ServiceBusEmulator(port=first.port).start()


def test_stopping_while_in_a_black_hole() -> None:
    with ServiceBusEmulator() as emulator:
        emulator.blackhole()
        with socket.create_connection((emulator.host, emulator.port), timeout=5) as stream:
            stream.sendall(b"AMQP\x03\x01\x00\x00")
            emulator.wait_until(lambda one: one.connections() == 1)
            emulator.stop()


def test_waiting_for_what_does_not_come_ends_in_a_timeout() -> None:
    with ServiceBusEmulator() as emulator, pytest.raises(TimeoutError, match=r"within 0\.1 s"):
        emulator.wait_until(lambda one: one.connections() == 1, timeout=0.1)


def test_run_serves_until_it_is_told_to_stop() -> None:
    ready: list[ServiceBusEmulator] = []
    stop, up = threading.Event(), threading.Event()

    def on_ready(emulator: ServiceBusEmulator) -> None:
        ready.append(emulator)
        up.set()

    thread = threading.Thread(target=lambda: run(port=0, on_ready=on_ready, stop=stop))
    thread.start()
    assert up.wait(10)
    ready[0].send("geospatial-jobs", "x")
    stop.set()
    thread.join(10)
    assert not thread.is_alive()


def test_it_runs_as_a_process_with_a_config_file_and_ends_on_sigterm(tmp_path: Path) -> None:
    queue = {"Name": "own", "Properties": {"LockDuration": "PT5S", "MaxDeliveryCount": 2}}
    path = tmp_path / "Config.json"
    path.write_text(
        json.dumps({"UserConfig": {"Namespaces": [{"Name": "sbemulatorns", "Queues": [queue], "Topics": []}]}})
    )
    code = (
        "from testing.emulator import run\n"
        f"run({str(path)!r}, port=0, on_ready=lambda emulator: print(emulator.connection_string, flush=True))"
    )
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    try:
        assert process.stdout is not None
        connection_string = process.stdout.readline().strip()
        assert re.search(r"sb://127\.0\.0\.1:\d+;", connection_string)
        client = ServiceBusClient.from_connection_string(connection_string, keep_alive=0)
        with client, client.get_queue_sender("own") as sender:
            sender.send_messages(ServiceBusMessage("x"))
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=10)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, errors) == (0, "")


def test_run_refuses_a_bad_config_before_it_listens(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        run(tmp_path / "missing.json", port=0)

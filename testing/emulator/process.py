"""The emulator as a process of its own, for local development."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from testing.emulator.config import EmulatorConfig, load_config
from testing.emulator.emulator import ServiceBusEmulator

DEFAULT_PORT = 5672


def run(
    config_path: Path | str | None = None,
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    *,
    on_ready: Callable[[ServiceBusEmulator], None] | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT (when called from the main thread) or until ``stop`` is set.

    ``config_path`` is a Config.json of the official emulator; without one the three queues of the project are served.
    ``on_ready`` is called once the port is open, with the running emulator. Raises ConfigurationError for a bad file
    and OSError when the port is taken.
    """
    config = EmulatorConfig() if config_path is None else load_config(config_path)
    stopping = stop or threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stopping.set()

    with ServiceBusEmulator(config, host=host, port=port) as emulator:
        in_main = threading.current_thread() is threading.main_thread()
        before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM) if in_main}
        try:
            if on_ready is not None:
                on_ready(emulator)
            stopping.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

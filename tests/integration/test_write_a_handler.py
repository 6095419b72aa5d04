"""docs/write-a-handler.md, followed to the letter: its files are written, its commands run."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "write-a-handler.md"
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_every_block_of_the_page_works(tmp_path: Path) -> None:
    port = free_port()
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PORT": str(port), "DATA_DIR": str(tmp_path / "data")}
    kinds = []
    for language, text in _BLOCK.findall(PAGE.read_text()):
        kinds.append(language)
        match language:
            case "python":
                name = re.match(r"# (\w+\.py)\n", text)
                assert name is not None, f"which file is this?\n{text}"
                (tmp_path / name.group(1)).write_text(text)
            case "sh":
                done = run(text.replace("localhost:8080", f"127.0.0.1:{port}"), tmp_path, environment)
                assert done.returncode == 0, done.stdout
            case _:
                raise AssertionError(f"a block in {language!r} is not run")
    assert kinds == ["python", "python", "sh", "python", "sh", "sh"]


def run(script: str, directory: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a block as a shell would, and end what it left in the background."""
    output = directory / "output.txt"
    with output.open("w") as file:
        shell = subprocess.Popen(
            ["bash", "-euc", f'{script}\n[ -z "$(jobs -p)" ] || kill $(jobs -p)\nwait'],
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = shell.wait(100)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(script, code, output.read_text())

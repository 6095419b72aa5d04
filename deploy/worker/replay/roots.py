"""Throwaway root file systems: an overlay of this machine with its projects and homes hidden, one for each stage.

Needs root and a mount namespace of its own, in which ``__main__`` runs it; everything mounted ends with that namespace.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

IMAGE_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
_HIDDEN = ("home", "root", "tmp", "mnt", "srv")
_NETWORK = ("PIP_", "SSL_CERT_", "REQUESTS_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


def network_environment() -> dict[str, str]:
    """How this machine reaches package registries; a Docker daemon would be told the same apart from the image."""
    return {name: value for name, value in os.environ.items() if name.upper().startswith(_NETWORK)}


class Root:
    """The file system of one stage.

    The base image ``python:3.11-slim`` has its Python in ``/usr/local``; here that is this machine's Python 3.11 as an
    overlay of its own, so that nothing but the interpreter is found there.
    """

    def __init__(self, directory: Path, *, hide: Sequence[Path]) -> None:
        self.directory = directory
        self.path = directory / "root"
        self._mount_overlay("root", Path("/"), self.path)
        self._mount_python()
        for folder in (*_HIDDEN, *(str(path).lstrip("/") for path in hide)):
            if (self.path / folder).is_dir():
                mode = "mode=1777" if folder == "tmp" else "mode=0755"
                _run("mount", "-t", "tmpfs", "-o", mode, "tmpfs", self.path / folder)
        _run("mount", "--rbind", "/dev", self.path / "dev")
        _run("mount", "-t", "proc", "proc", self.path / "proc")
        _run("chroot", self.path, "ldconfig")  # as the base image does: its libpython is in /usr/local/lib

    def _mount_overlay(self, name: str, lower: Path, target: Path) -> None:
        upper, work = self.directory / f"{name}-upper", self.directory / f"{name}-work"
        for folder in (upper, work, target):
            folder.mkdir(parents=True, exist_ok=True)
        _run("mount", "-t", "overlay", "overlay", "-o", f"lowerdir={lower},upperdir={upper},workdir={work}", target)

    def _mount_python(self) -> None:
        prefix = Path(sys.base_prefix)
        local = self.path / "usr" / "local"
        if prefix != Path("/usr/local"):
            if prefix == Path("/usr"):
                self._mount_overlay("python", local, local)
                (local / "bin" / "python").symlink_to(os.path.realpath(sys.executable))
            else:
                self._mount_overlay("python", prefix, local)

    def bind(self, source: Path, target: str) -> None:
        """Show a directory of the machine inside."""
        place = self.path / target.lstrip("/")
        place.mkdir(parents=True, exist_ok=True)
        _run("mount", "--bind", source, place)

    def command(
        self, words: Sequence[str], environment: Mapping[str, str], *, user: str = "0:0", folder: str = "/"
    ) -> list[str]:
        """The command line that runs ``words`` inside, with exactly this environment."""
        variables = [f"{name}={value}" for name, value in environment.items()]
        inside = ["env", "-i", f"--chdir={folder}", *variables, *words]
        return ["chroot", f"--userspec={user}", "--groups=", str(self.path), *inside]

    def run(self, words: Sequence[str], environment: Mapping[str, str], *, user: str = "0:0", folder: str = "/") -> str:
        """Run a command inside and return what it printed.

        Raises:
            SystemExit: when it fails, with its output.
        """
        ended = subprocess.run(
            self.command(words, environment, user=user, folder=folder), capture_output=True, text=True, check=False
        )
        if ended.returncode != 0:
            sys.exit(f"{' '.join(words)}\nexited with {ended.returncode}:\n{ended.stdout}{ended.stderr}")
        return ended.stdout

    def copy(self, source: Path, target: str, *, folder: str, ignore: Sequence[str] = ()) -> None:
        """COPY: a file or the contents of a directory, to an absolute path or one below ``folder``."""
        place = self.path / str(Path(folder, target)).lstrip("/")
        if source.is_dir():
            shutil.copytree(source, place, symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*ignore))
            return
        if target.endswith("/"):
            place = place / source.name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, place)


def _run(*words: str | Path) -> None:
    subprocess.run([str(word) for word in words], check=True)

"""Watching memory, disk and progress, so that the kernel's killer, a full disk and a silent hang come second."""

from __future__ import annotations

import logging
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

_UNLIMITED = 1 << 60  # cgroup v1 writes "no limit" as a huge number


@dataclass(frozen=True, slots=True)
class MemoryReading:
    """Bytes used and bytes allowed. What the page cache could give back is not counted as used."""

    used: int
    limit: int

    @property
    def share(self) -> float:
        """``used`` as a share of ``limit``."""
        return self.used / self.limit if self.limit else 0.0


class MemoryWatch:
    """Reads the memory limit that holds for this process: cgroup v2, cgroup v1, or the machine's own memory.

    Limits nest; the tightest of this process's cgroup and those above it holds. ``soft_share`` is the mark above which
    a task is asked to stop.
    """

    def __init__(
        self, soft_share: float = 0.85, *, proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")
    ) -> None:
        self.soft_share = soft_share
        self._proc = proc
        self._groups = _find_groups(proc, cgroups)

    def read(self) -> MemoryReading | None:
        """The reading that is nearest to its limit, or None where nothing can be read."""
        readings = [reading for group in self._groups if (reading := group.read()) is not None]
        if (machine := self._machine()) is not None:
            readings.append(machine)
        return max(readings, key=lambda reading: reading.share, default=None)

    @property
    def limit(self) -> int | None:
        """The tightest limit in bytes."""
        limits = [reading.limit for group in self._groups if (reading := group.read()) is not None]
        if (machine := self._machine()) is not None:
            limits.append(machine.limit)
        return min(limits, default=None)

    def above_soft_mark(self) -> MemoryReading | None:
        """The reading when it is above the soft mark, else None."""
        reading = self.read()
        return reading if reading is not None and reading.share >= self.soft_share else None

    def oom_kills(self) -> int:
        """How often the kernel has killed for want of memory, here or on the machine: compare two readings."""
        counts = [group.oom_kills() for group in self._groups]
        counts.append(_field(self._proc / "vmstat", "oom_kill") or 0)
        return sum(counts)

    def _machine(self) -> MemoryReading | None:
        total = _field(self._proc / "meminfo", "MemTotal:")
        available = _field(self._proc / "meminfo", "MemAvailable:")
        if total is None or available is None:
            return None
        return MemoryReading(used=(total - available) * 1024, limit=total * 1024)


@dataclass(frozen=True, slots=True)
class _Group:
    """One cgroup's memory files by name."""

    limit: Path
    usage: Path
    stat: Path
    cache_field: str
    events: Path

    def read(self) -> MemoryReading | None:
        limit, usage = _number(self.limit), _number(self.usage)
        if limit is None or usage is None or limit >= _UNLIMITED:
            return None
        cache = _field(self.stat, self.cache_field) or 0
        return MemoryReading(used=max(0, usage - cache), limit=limit)

    def oom_kills(self) -> int:
        return _field(self.events, "oom_kill") or 0


def _find_groups(proc: Path, cgroups: Path) -> list[_Group]:
    """The cgroup of this process and those above it that have memory files."""
    try:
        lines = (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    groups: list[_Group] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            groups += [
                _Group(
                    place / "memory.max",
                    place / "memory.current",
                    place / "memory.stat",
                    "inactive_file",
                    place / "memory.events",
                )
                for place in _upwards(cgroups, path)
                if (place / "memory.current").exists()
            ]
        elif "memory" in controllers.split(","):
            groups += [
                _Group(
                    place / "memory.limit_in_bytes",
                    place / "memory.usage_in_bytes",
                    place / "memory.stat",
                    "total_inactive_file",
                    place / "memory.oom_control",
                )
                for place in _upwards(cgroups / "memory", path)
                if (place / "memory.usage_in_bytes").exists()
            ]
    return groups


def _upwards(root: Path, path: str) -> list[Path]:
    """``root/path``, its parents, and ``root`` itself: in a container the path may only be known from outside."""
    relative = Path(path.lstrip("/"))
    return [root / relative, *(root / parent for parent in relative.parents if relative != Path("."))]


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # "max" is no limit
        return None


def _field(path: Path, name: str) -> int | None:
    """The number after ``name`` in a file of ``name number`` lines. Searched whole: some have hundreds of lines."""
    try:
        _, found, rest = (b"\n" + path.read_bytes()).partition(f"\n{name} ".encode())
        return int(rest.split(None, 1)[0]) if found else None
    except (OSError, ValueError, IndexError):
        return None


@dataclass(frozen=True, slots=True)
class DiskWatch:
    """Says when the work directory's file system has less than ``min_free_bytes`` left."""

    path: Path
    min_free_bytes: int

    def problem(self) -> str | None:
        """What is wrong, or None."""
        place = self.path
        while not place.exists() and place != place.parent:
            place = place.parent
        try:
            free = shutil.disk_usage(place).free
        except OSError as error:
            return f"the free space of {self.path} cannot be read: {error}"
        if free < self.min_free_bytes:
            return (
                f"only {free / 2**20:.0f} MiB are free on the file system of {self.path}; "
                f"{self.min_free_bytes / 2**20:.0f} MiB are needed to start a task"
            )
        return None


class StallWatch:
    """Says once when there has been no progress for ``seconds``; again only after progress was seen."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._last = time.monotonic()
        self._reported = False

    def progressed(self) -> None:
        """Progress was seen."""
        self._last = time.monotonic()
        self._reported = False

    def silent_for(self) -> float:
        """Seconds since the last progress."""
        return time.monotonic() - self._last

    def stalled(self) -> bool:
        """Whether a stall began that was not yet reported."""
        if self._seconds is None or self._reported or self.silent_for() < self._seconds:
            return False
        self._reported = True
        return True

    def due_in(self) -> float | None:
        """Seconds until a stall would begin, or None."""
        return None if self._seconds is None or self._reported else max(0.0, self._seconds - self.silent_for())

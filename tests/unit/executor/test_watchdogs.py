from __future__ import annotations

from pathlib import Path

import pytest

from infrastructure.process_executor.rate import RateLimit
from infrastructure.watchdogs import DiskWatch, MemoryReading, MemoryWatch

MIB = 1 << 20


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def watch(root: Path, soft_share: float = 0.85) -> MemoryWatch:
    return MemoryWatch(soft_share, proc=root / "proc", cgroups=root / "cgroup")


def test_cgroup_v2_in_a_container(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/\n",
            "cgroup/memory.max": f"{100 * MIB}\n",
            "cgroup/memory.current": f"{95 * MIB}\n",
            "cgroup/memory.stat": f"anon 1\nfile 5\ninactive_file {15 * MIB}\n",
            "cgroup/memory.events": "low 0\nhigh 0\nmax 3\noom 2\noom_kill 1\noom_group_kill 0\n",
        },
    )
    memory = watch(tmp_path)
    assert memory.read() == MemoryReading(used=80 * MIB, limit=100 * MIB)
    assert memory.limit == 100 * MIB
    assert memory.above_soft_mark() is None
    assert memory.oom_kills() == 1
    write(tmp_path, {"cgroup/memory.current": f"{100 * MIB}\n"})
    assert memory.above_soft_mark() == MemoryReading(used=85 * MIB, limit=100 * MIB)


def test_cgroup_v2_limits_of_the_groups_above_hold_too(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/pod/container\n",
            "cgroup/pod/memory.max": f"{50 * MIB}\n",
            "cgroup/pod/memory.current": f"{45 * MIB}\n",
            "cgroup/pod/memory.stat": "inactive_file 0\n",
            "cgroup/pod/container/memory.max": "max\n",
            "cgroup/pod/container/memory.current": f"{45 * MIB}\n",
        },
    )
    memory = watch(tmp_path)
    assert memory.read() == MemoryReading(used=45 * MIB, limit=50 * MIB)
    assert memory.above_soft_mark() is not None


@pytest.mark.parametrize("path", ["/docker/abc", "/"])
def test_cgroup_v1_whether_or_not_the_path_is_the_hosts(tmp_path: Path, path: str) -> None:
    # In a container the path may be the host's, while the mount shows the container's own group as its root.
    write(
        tmp_path,
        {
            "proc/self/cgroup": f"5:devices:/\n4:cpu,memory:{path}\n0::/\n",
            "cgroup/memory/memory.limit_in_bytes": f"{100 * MIB}\n",
            "cgroup/memory/memory.usage_in_bytes": f"{90 * MIB}\n",
            "cgroup/memory/memory.stat": f"inactive_file 7\ntotal_inactive_file {10 * MIB}\n",
            "cgroup/memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n",
        },
    )
    memory = watch(tmp_path)
    assert memory.read() == MemoryReading(used=80 * MIB, limit=100 * MIB)
    assert memory.oom_kills() == 4


def test_without_a_limit_the_machines_memory_counts(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/\n",
            "proc/meminfo": "MemTotal:       1000 kB\nMemFree:  1 kB\nMemAvailable:    100 kB\n",
            "proc/vmstat": "nr_free_pages 1\noom_kill 2\n",
            "cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "cgroup/memory/memory.usage_in_bytes": "1\n",
        },
    )
    memory = watch(tmp_path)
    assert memory.read() == MemoryReading(used=900 * 1024, limit=1000 * 1024)
    assert memory.above_soft_mark() is not None
    assert memory.oom_kills() == 2


def test_where_nothing_can_be_read_nothing_is_said(tmp_path: Path) -> None:
    memory = watch(tmp_path)
    assert (memory.read(), memory.limit, memory.above_soft_mark(), memory.oom_kills()) == (None, None, None, 0)


def test_this_machine_can_be_read() -> None:
    reading = MemoryWatch().read()
    assert reading is not None
    assert 0 < reading.used < reading.limit


def test_disk(tmp_path: Path) -> None:
    assert DiskWatch(tmp_path / "not" / "made" / "yet", 1).problem() is None
    problem = DiskWatch(tmp_path, 1 << 60).problem()
    assert problem is not None
    assert "MiB are needed" in problem


def test_rate_limit_refills_and_counts_what_it_drops() -> None:
    now = 0.0
    rate = RateLimit(per_second=10, burst=3, clock=lambda: now)
    assert [rate.allows() for _ in range(5)] == [True, True, True, False, False]
    assert (rate.take_dropped(), rate.take_dropped()) == (2, 0)
    now = 0.25
    assert [rate.allows() for _ in range(3)] == [True, True, False]
    now = 100.0
    assert sum(rate.allows() for _ in range(10)) == 3

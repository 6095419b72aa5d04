"""Speed of raster output, side by side with GDAL's own ways, in one run on one machine.

    python -m tests.benchmarks.raster_speed RASTER [--rounds 3] [--only cog,tiles,warp] [--compress deflate --level 6]

Same codec, level, predictor, block size and overview resampling (average) everywhere. Ours is the whole handler
(``create_cog``, or ``process_raster_complete`` in tiles): validation, exact statistics and histogram, blocks decoded
and compared, checksums, fsync, STAC. The peers only write. Each run is a process of its own that first does the same
with a corner of the raster: a worker's child has imported everything after its first raster. Medians of wall and
CPU seconds from there on, peak resident size. Files are read once before, so that the page cache is warm for everybody.

Peers: GDAL's COG driver through rasterio (``NUM_THREADS`` = cores, 64 MiB of cache, which is its best on this data),
the same with ``TARGET_SRS`` (without an alpha band, which leaves black where nothing is, and with one, which says what
our mask says), ``rio cogeo create`` with its own overviews, and ``gdalwarp -of COG`` when installed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import rasterio
import rasterio.windows

MIB = 2**20
TARGET = "EPSG:4326"


def main() -> None:
    """The command line; ``--one`` runs one way in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raster", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="cog,tiles,warp")
    parser.add_argument("--compress", default="deflate", choices=("deflate", "zstd"))
    parser.add_argument("--level", type=int, default=6)
    parser.add_argument("--scratch", type=Path, help="directory for outputs; default: a temporary one")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        run_one(arguments.one, arguments)
    else:
        compare(arguments)


def ways(kind: str) -> list[str]:
    """The ways of each comparison; the first is ours."""
    found = {
        "cog": ["ours one COG", "COG driver", "rio cogeo"],
        "tiles": ["ours tiles", "COG driver"],
        "warp": ["ours warped tiles", "ours warped COG", "COG driver TARGET_SRS", "COG driver TARGET_SRS alpha"],
    }[kind]
    return [*found, "gdalwarp -of COG"] if kind == "warp" and shutil.which("gdalwarp") else found


def compare(arguments: argparse.Namespace) -> None:
    """Run every way in turn, round after round, and print medians."""
    with rasterio.open(arguments.raster) as raster:
        shape = f"{raster.width} x {raster.height} x {raster.count} {raster.dtypes[0]}"
    cores = len(os.sched_getaffinity(0))
    print(f"{arguments.raster.name}: {shape}; {arguments.compress} level {arguments.level}; {cores} cores")
    print(
        f"rasterio {rasterio.__version__}, GDAL {rasterio.__gdal_version__}, rio-cogeo {metadata.version('rio-cogeo')}"
    )
    warm(arguments.raster)
    for kind in arguments.only.split(","):
        seen: dict[str, list[dict[str, float]]] = {way: [] for way in ways(kind)}
        for _ in range(arguments.rounds):
            for way, runs in seen.items():
                runs.append(measured(way, arguments))
        report(kind, seen)


def warm(path: Path) -> None:
    """Read the file once."""
    with path.open("rb") as file:
        while file.read(16 * MIB):
            pass


def measured(way: str, arguments: argparse.Namespace) -> dict[str, float]:
    """One run in a process of its own."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "tests.benchmarks.raster_speed",
        str(arguments.raster),
        "--one",
        way,
    ]
    command += ["--compress", arguments.compress, "--level", str(arguments.level)]
    with tempfile.TemporaryDirectory(dir=arguments.scratch, prefix="raster-speed-") as scratch:
        process = subprocess.Popen([*command, "--scratch", scratch], stdout=subprocess.PIPE)
        assert process.stdout is not None
        said = process.stdout.read()
        process.stdout.close()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{way} ended with {process.returncode}")
    return {**json.loads(said.splitlines()[-1]), "rss": usage.ru_maxrss / 1024}


def report(kind: str, seen: dict[str, list[dict[str, float]]]) -> None:
    """A table: medians, and ours as a share of each peer."""
    medians = {
        way: {name: statistics.median(run[name] for run in runs) for name in runs[0]} for way, runs in seen.items()
    }
    ours = medians[next(iter(medians))]
    print(f"\n{kind}\n| way | wall s | CPU s | RSS MB | output MB | ours / this, wall | CPU |")
    print("|---|---|---|---|---|---|---|")
    for way, found in medians.items():
        print(
            f"| {way} | {found['wall']:.1f} | {found['cpu']:.1f} | {found['rss']:.0f} | {found['size']:.1f} "
            f"| {ours['wall'] / found['wall']:.2f} | {ours['cpu'] / found['cpu']:.2f} |"
        )


def run_one(way: str, arguments: argparse.Namespace) -> None:
    """One way, here; prints its wall and CPU seconds, and the megabytes it made."""
    corner = argparse.Namespace(**vars(arguments))
    corner.raster, corner.scratch = cut_corner(arguments), arguments.scratch / "corner"
    corner.scratch.mkdir()
    made(way, corner)
    wall, cpu = time.perf_counter(), cpu_seconds()
    size = made(way, arguments)
    print(json.dumps({"wall": time.perf_counter() - wall, "cpu": cpu_seconds() - cpu, "size": size / 1e6}))


def cut_corner(arguments: argparse.Namespace) -> Path:
    """A small raster of the same kind."""
    path: Path = arguments.scratch / "corner.tif"
    with rasterio.open(arguments.raster) as raster:
        window = rasterio.windows.Window(0, 0, min(1200, raster.width), min(1200, raster.height))
        with rasterio.open(path, "w", **{**raster.profile, "width": window.width, "height": window.height}) as file:
            file.write(raster.read(window=window))
    return path


def cpu_seconds() -> float:
    """Of this process and of children that have ended."""
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def made(way: str, arguments: argparse.Namespace) -> int:
    """Do it; the bytes of the output."""
    scratch: Path = arguments.scratch
    out = scratch / "out.tif"
    peer = {
        "COG driver": _cog_driver,
        "COG driver TARGET_SRS": _cog_driver,
        "COG driver TARGET_SRS alpha": _cog_driver_alpha,
        "rio cogeo": _rio_cogeo,
        "gdalwarp -of COG": _gdalwarp,
    }.get(way)
    if peer is None:
        return _ours(way, arguments, scratch)
    peer(arguments, out, warp="SRS" in way)
    return out.stat().st_size


def _ours(way: str, arguments: argparse.Namespace, scratch: Path) -> int:
    from app.raster_limits import raster_limits
    from app.settings import Settings
    from core.handlers import HandlerRegistry
    from services.raster.registry import HANDLERS
    from tests.raster_support import context_in

    context, _ = context_in(scratch)
    context.services = raster_limits(Settings.from_env({}))
    parameters: dict[str, Any] = {
        "source_url": str(arguments.raster),
        "output_dir": str(scratch / "out"),
        "compression": arguments.compress,
        "level": arguments.level,
        "overview_resampling": "average",
    }
    if "warped" in way:
        parameters |= {"target_crs": TARGET, "resampling": "bilinear"}
    handlers = HandlerRegistry(HANDLERS)
    if "tiles" in way:
        result = handlers["process_raster_complete"].call({**parameters, "tiling_threshold_mb": 0}, context)
        return int(result["tiles"]["size_bytes"] + result["overview"]["size_bytes"])
    return int(handlers["create_cog"].call(parameters, context)["size_bytes"])


def _creation(arguments: argparse.Namespace) -> dict[str, Any]:
    with rasterio.open(arguments.raster) as raster:
        predictor = 3 if raster.dtypes[0].startswith("float") else 2
    return {"COMPRESS": arguments.compress.upper(), "LEVEL": arguments.level, "PREDICTOR": predictor}


def _cog_driver_alpha(arguments: argparse.Namespace, out: Path, *, warp: bool) -> None:
    _cog_driver(arguments, out, warp=warp, alpha="YES")


def _cog_driver(arguments: argparse.Namespace, out: Path, *, warp: bool, alpha: str = "NO") -> None:
    from rasterio.shutil import copy

    options = {
        **_creation(arguments),
        "NUM_THREADS": len(os.sched_getaffinity(0)),
        "OVERVIEWS": "IGNORE_EXISTING",
        "OVERVIEW_RESAMPLING": "AVERAGE",
        "BIGTIFF": "IF_SAFER",
    }
    if warp:
        options |= {"TARGET_SRS": TARGET, "WARP_RESAMPLING": "BILINEAR", "ADD_ALPHA": alpha}
    with rasterio.Env(GDAL_CACHEMAX=64 * MIB), rasterio.open(arguments.raster) as source:
        copy(source, out, driver="COG", **options)


def _rio_cogeo(arguments: argparse.Namespace, out: Path, *, warp: bool) -> None:
    from rio_cogeo.cogeo import cog_translate
    from rio_cogeo.profiles import cog_profiles

    creation = _creation(arguments)
    profile = dict(cog_profiles.get(arguments.compress))
    profile |= {"predictor": creation["PREDICTOR"], "NUM_THREADS": len(os.sched_getaffinity(0)), "BIGTIFF": "IF_SAFER"}
    profile["ZLEVEL" if arguments.compress == "deflate" else "ZSTD_LEVEL"] = arguments.level
    cog_translate(
        str(arguments.raster),
        str(out),
        profile,
        overview_resampling="average",
        in_memory=False,
        quiet=True,
        config={"GDAL_NUM_THREADS": str(len(os.sched_getaffinity(0)))},
    )


def _gdalwarp(arguments: argparse.Namespace, out: Path, *, warp: bool) -> None:
    creation = [f"{name}={value}" for name, value in _creation(arguments).items()]
    creation += ["OVERVIEW_RESAMPLING=AVERAGE", f"NUM_THREADS={len(os.sched_getaffinity(0))}"]
    options = [part for option in creation for part in ("-co", option)]
    command = ["gdalwarp", "-q", "-of", "COG", "-t_srs", TARGET, "-r", "bilinear", "-multi", *options]
    subprocess.run([*command, str(arguments.raster), str(out)], check=True)


if __name__ == "__main__":
    main()

"""Makes the Function App's requirements.txt from the lock files, and the zip that is deployed.

    python deploy/function_app/package.py requirements       # write requirements.txt beside this file
    python deploy/function_app/package.py zip                # dist/function_app.zip, for a remote build
    python deploy/function_app/package.py zip --vendor       # with every dependency inside, for any kind of deployment

The zip is the same for the same content: members are sorted, with fixed times and modes.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from packaging.markers import Marker

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LOCKS = (ROOT / "requirements" / "runtime.lock", ROOT / "requirements" / "azure-monitor.lock")
PACKAGES = ("app", "core", "infrastructure", "services", "testing", "transports")
OWN_FILES = ("function_app.py", "host.json", "requirements.txt")
VENDORED = ".python_packages/lib/site-packages"
PYTHON = "3.11"
PLATFORMS = ("manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux_2_28_x86_64")
"""What the Functions hosts for Python 3.11 run on: x86-64 Linux with glibc 2.31 or later."""

_HOST = {
    "python_version": PYTHON,
    "python_full_version": "3.11.9",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "implementation_name": "cpython",
    "os_name": "posix",
}
_EPOCH = (1980, 1, 1, 0, 0, 0)
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)\s*(?:;\s*([^\\]+?))?\s*\\?$")
_HASH = re.compile(r"--hash=(sha256:[0-9a-f]{64})")


def requirements(locks: Sequence[Path] = LOCKS) -> str:
    """The pins that a Functions host needs, with their hashes, each once.

    Raises:
        ValueError: when two locks pin a package differently.
    """
    pins: dict[str, tuple[str, set[str]]] = {}
    for lock in locks:
        for name, version, hashes in _pins(lock.read_text(encoding="utf-8")):
            known = pins.setdefault(name, (version, set()))
            if known[0] != version:
                raise ValueError(f"{name} is pinned to {known[0]} and, in {lock.name}, to {version}: run `make lock`")
            known[1].update(hashes)
    lines = ["# Made from requirements/*.lock by deploy/function_app/package.py; do not edit.\n"]
    for name, (version, hashes) in sorted(pins.items()):
        listed = " \\\n    ".join(f"--hash={one}" for one in sorted(hashes))
        lines.append(f"{name}=={version} \\\n    {listed}\n")
    return "".join(lines)


def _pins(text: str) -> Iterator[tuple[str, str, list[str]]]:
    name = version = ""
    wanted = False
    hashes: list[str] = []
    for line in text.splitlines():
        pin = _PIN.match(line)
        if pin is not None:
            if hashes:
                yield name, version, hashes
            name, version, marker = pin.group(1), pin.group(2), pin.group(3)
            hashes = []
            wanted = marker is None or Marker(marker).evaluate(_HOST)
        elif (found := _HASH.search(line)) is not None and wanted:
            hashes.append(found.group(1))
    if hashes:
        yield name, version, hashes


def members(site_packages: Path | None = None) -> Iterator[tuple[str, bytes]]:
    """What goes into the zip: names and contents, sorted by name."""
    found: dict[str, bytes] = {name: (HERE / name).read_bytes() for name in OWN_FILES}
    for package in PACKAGES:
        for path in _files(ROOT / package):
            found[path.relative_to(ROOT).as_posix()] = path.read_bytes()
    found |= _metadata()
    if site_packages is not None:
        for path in _files(site_packages):
            found[f"{VENDORED}/{path.relative_to(site_packages).as_posix()}"] = path.read_bytes()
    yield from sorted(found.items())


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc":
            yield path


def project_version() -> str:
    """The version in pyproject.toml."""
    version: str = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    return version


def _metadata() -> dict[str, bytes]:
    """The project is not installed there; this tells ``/health`` its version."""
    version = project_version()
    text = f"Metadata-Version: 2.1\nName: geoworker\nVersion: {version}\n"
    return {f"geoworker-{version}.dist-info/METADATA": text.encode()}


def write_zip(target: Path, *, vendor: bool = False) -> Path:
    """Write the zip; with ``vendor`` the dependencies are downloaded for the host's platform and put inside."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        site_packages = _vendored(Path(folder)) if vendor else None
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
            for name, content in members(site_packages):
                entry = zipfile.ZipInfo(name, date_time=_EPOCH)
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, content)
    return target


def _vendored(folder: Path) -> Path:
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    command = [
        *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"),
        *("--require-hashes", "--only-binary", ":all:", "--no-deps", "--python-version", PYTHON),
        *platforms,
        *("--target", str(folder), "--requirement", str(HERE / "requirements.txt")),
    ]
    subprocess.run(command, check=True)
    return folder


def main() -> None:
    """Parse the command line and do it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("requirements", help="write requirements.txt")
    packing = commands.add_parser("zip", help="write the zip")
    packing.add_argument("--output", type=Path, default=ROOT / "dist" / "function_app.zip")
    packing.add_argument("--vendor", action="store_true", help="put the dependencies inside")
    options = parser.parse_args()
    if options.command == "requirements":
        (HERE / "requirements.txt").write_text(requirements(), encoding="utf-8")
    else:
        target = write_zip(options.output, vendor=options.vendor)
        print(f"{target}  {target.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()

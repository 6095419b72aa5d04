"""Handlers that do what handlers must not, and the bootstrap that gives them to a child process."""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chaos_store import FileCheckpointStore

from core.docker_context import DockerTaskContext
from core.errors import PermanentError
from core.handlers import HandlerRegistry, HandlerSpec
from core.records import Progress
from infrastructure.inline_executor import HandlerParts

Result = dict[str, Any]
_TABLE: dict[str, Callable[..., Any]] = {}


def handler(function: Callable[..., Any]) -> Callable[..., Any]:
    _TABLE[function.__name__] = function
    return function


@contextmanager
def parts(arguments: Mapping[str, Any]) -> Iterator[HandlerParts]:
    root = Path(arguments["root"])
    if arguments.get("broken"):
        raise RuntimeError("the bootstrap has a fault of its own")
    specs = [HandlerSpec(task_type=name, handler=function) for name, function in _TABLE.items()]
    yield HandlerParts(
        handlers=HandlerRegistry(specs),
        checkpoints=FileCheckpointStore(root / "checkpoints"),
        work_root=root / "work",
        services={"greeting": "hello"},
    )
    (root / f"closed-{os.getpid()}").touch()


@handler
def good(params: dict[str, Any], context: DockerTaskContext) -> Result:
    context.report_progress(100, "done")
    return {"success": True, "pid": os.getpid(), "echo": params.get("echo"), "greeting": context.services["greeting"]}


@handler
def noop(params: dict[str, Any], context: DockerTaskContext) -> Result:
    return {"success": True}


@handler
def segfault(params: dict[str, Any], context: DockerTaskContext) -> Result:
    print("about to read address zero")
    ctypes.string_at(0)
    return {"success": True}


@handler
def exit_at_once(params: dict[str, Any], context: DockerTaskContext) -> Result:
    print("leaving", flush=True)
    os._exit(params.get("code", 7))


@handler
def abort(params: dict[str, Any], context: DockerTaskContext) -> Result:
    os.abort()


@handler
def kill_itself(params: dict[str, Any], context: DockerTaskContext) -> Result:
    if (counter := params.get("oom_counter")) is not None:  # what the kernel does: count, then kill
        Path(counter).write_text("oom 1\noom_kill 1\n")
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)
    return {"success": True}


@handler
def kill_its_group(params: dict[str, Any], context: DockerTaskContext) -> Result:
    os.killpg(0, signal.SIGKILL)
    time.sleep(60)
    return {"success": True}


@handler
def hang(params: dict[str, Any], context: DockerTaskContext) -> Result:
    print("hanging")
    Path(params["started"]).write_text(str(os.getpid())) if "started" in params else None
    while True:
        time.sleep(3600)


@handler
def hold_the_gil(params: dict[str, Any], context: DockerTaskContext) -> Result:
    Path(params["started"]).write_text(str(os.getpid())) if "started" in params else None
    ctypes.PyDLL(None).usleep(int(params["seconds"] * 1e6))
    return {"success": True}


@handler
def spin(params: dict[str, Any], context: DockerTaskContext) -> Result:
    """Pure Python that never yields of its own will."""
    Path(params["started"]).write_text(str(os.getpid()))
    give_up_at = time.monotonic() + params["seconds"]
    count = 0
    while time.monotonic() < give_up_at and not context.should_stop():
        count += sum(number * number for number in range(1000))
    return context.interrupted() if context.should_stop() else {"success": True}


@handler
def report_then_wait(params: dict[str, Any], context: DockerTaskContext) -> Result:
    context.report_progress(42.0, "nearly half")
    if params.get("counted"):
        for done in (10, 20):
            time.sleep(0.05)
            context.report_progress(done=done, total=100, unit="tiles", message="tiling")
        context.stop.wait(0.6)  # silence: what was said last has to be seen all the same
    Path(params["started"]).write_text(str(os.getpid()))
    context.stop.wait(30)
    return context.interrupted()


@handler
def listen(params: dict[str, Any], context: DockerTaskContext) -> Result:
    """Waits for the stop as a good handler does."""
    Path(params["started"]).write_text(str(os.getpid()))
    if context.stop.wait(30):
        return context.interrupted(reason=str(context.stop_reason))
    return {"success": False, "error": "nobody asked"}


@handler
def listen_to_own_event(params: dict[str, Any], context: DockerTaskContext) -> Result:
    event = threading.Event()
    context.checkpoint.set_shutdown_event(event)
    event.set()
    return context.interrupted() if context.checkpoint.is_shutdown_requested() else {"success": False}


@handler
def allocate(params: dict[str, Any], context: DockerTaskContext) -> Result:
    resource.setrlimit(resource.RLIMIT_AS, (params["limit"], resource.getrlimit(resource.RLIMIT_AS)[1]))
    return {"success": True, "size": len(bytearray(2 * params["limit"]))}


@handler
def eat(params: dict[str, Any], context: DockerTaskContext) -> Result:
    ballast = bytearray(params["bytes"])
    ballast[::4096] = b"x" * len(ballast[::4096])
    context.stop.wait(30)
    return context.interrupted(size=len(ballast))


@handler
def eat_and_return(params: dict[str, Any], context: DockerTaskContext) -> Result:
    ballast = bytearray(params["bytes"])
    ballast[::4096] = b"x" * len(ballast[::4096])
    return {"success": True, "size": len(ballast)}


def _sleep_for_ever(_: int) -> None:
    time.sleep(3600)


@handler
def leave_a_pool(params: dict[str, Any], context: DockerTaskContext) -> Result:
    pool = multiprocessing.get_context("fork").Pool(2)
    pool.map_async(_sleep_for_ever, range(2))
    time.sleep(0.1)
    pids = [worker.pid for worker in pool._pool]  # type: ignore[attr-defined]
    _TABLE["_kept"] = pool.terminate  # kept alive beyond the task
    Path(params["pids"]).write_text(" ".join(map(str, pids)))
    if params.get("then") == "exit":
        os._exit(3)
    if params.get("then") == "hang":
        time.sleep(3600)
    return {"success": True}


@handler
def use_a_pool(params: dict[str, Any], context: DockerTaskContext) -> Result:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return {"success": True, "squares": pool.map(_square, range(10))}


@handler
def terminate_forks(params: dict[str, Any], context: DockerTaskContext) -> Result:
    """What a pool does when it is terminated while its workers still start."""
    statuses = []
    for _ in range(params["forks"]):
        if (pid := os.fork()) == 0:
            time.sleep(3600)
        os.kill(pid, signal.SIGTERM)
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    return {"success": True, "statuses": statuses}


def _square(number: int) -> int:
    logging.getLogger("chaos.pool").warning("squaring %d", number)
    return number * number


@handler
def leave_a_daemon(params: dict[str, Any], context: DockerTaskContext) -> Result:
    """A process in a session of its own, orphaned: out of reach of a group kill."""
    code = (
        "import os, sys, time; pid = os.fork();"
        "(open(sys.argv[1], 'w').write(str(pid)), os._exit(0)) if pid else time.sleep(3600)"
    )
    subprocess.run([sys.executable, "-c", code, params["pids"]], start_new_session=True, check=True)
    return {"success": True}


@handler
def leave_threads(params: dict[str, Any], context: DockerTaskContext) -> Result:
    threading.Thread(target=time.sleep, args=(3600,), name="left-behind").start()
    return {"success": True, "pid": os.getpid()}


@handler
def print_megabytes(params: dict[str, Any], context: DockerTaskContext) -> Result:
    line = "x" * 1000
    for number in range(params["megabytes"] * 1000):
        print(number, line)
    sys.stdout.write("y" * 3_000_000)  # one line without an end
    sys.stdout.flush()
    print("\nthe last line")
    if params.get("die"):
        os._exit(9)
    return {"success": True}


@handler
def return_what_it_must_not(params: dict[str, Any], context: DockerTaskContext) -> Any:
    cyclic: dict[str, Any] = {"success": True}
    cyclic["self"] = cyclic
    return {
        "object": {"success": True, "value": object()},
        "nan": {"success": True, "value": float("nan")},
        "lambda": lambda: None,
        "nothing": None,
        "no success": {"value": 1},
        "cycle": cyclic,
        "huge": {"success": True, "value": "x" * 17_000_000},
        "bytes": {"success": True, "value": b"\x00"},
    }[params["what"]]


class Unpicklable(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__("cannot be pickled")
        self.lock = threading.Lock()

    def __reduce__(self) -> Any:
        raise TypeError("not this one")


class Unreadable(Exception):
    def __str__(self) -> str:
        raise ValueError("no text either")


@handler
def raise_what_it_must_not(params: dict[str, Any], context: DockerTaskContext) -> Any:
    match params["what"]:
        case "unpicklable":
            raise Unpicklable(1, 2)
        case "unreadable":
            raise Unreadable
        case "system exit":
            sys.exit(5)
        case "keyboard interrupt":
            raise KeyboardInterrupt
        case "base exception":
            raise BaseException("the root of all")  # noqa: TRY002
        case "generator exit":
            raise GeneratorExit
        case "memory error":
            raise MemoryError
        case "recursion":
            return raise_what_it_must_not(params, context)
        case "secret":
            raise OSError("cannot open https://x.blob.core.windows.net/c/b.tif?sv=1&sig=topsecret")
        case "permanent":
            raise PermanentError("not a raster", code="NOT_A_RASTER", details={"path": Path("/x"), "n": float("nan")})


@handler
def delete_its_directory(params: dict[str, Any], context: DockerTaskContext) -> Result:
    directory = tempfile.mkdtemp()
    os.chdir(directory)
    shutil.rmtree(directory)
    return {"success": True}


@handler
def close_descriptors(params: dict[str, Any], context: DockerTaskContext) -> Result:
    os.closerange(0, 256)
    return {"success": True}


@handler
def reuse_descriptors(params: dict[str, Any], context: DockerTaskContext) -> Result:
    os.closerange(0, 256)
    for number in range(64):
        os.open(context.work_dir / f"victim-{number}", os.O_CREAT | os.O_RDWR)
    return {"success": True}


@handler
def change_signals(params: dict[str, Any], context: DockerTaskContext) -> Result:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    return {"success": True}


@handler
def change_environment(params: dict[str, Any], context: DockerTaskContext) -> Result:
    os.environ["CHAOS"] = "left behind"
    return {"success": True, "pid": os.getpid()}


@handler
def show_environment(params: dict[str, Any], context: DockerTaskContext) -> Result:
    return {"success": True, "chaos": os.environ.get("CHAOS"), "sigterm": signal.getsignal(signal.SIGTERM) is not None}


@handler
def signal_itself(params: dict[str, Any], context: DockerTaskContext) -> Result:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(os.getpid(), number)
    child = subprocess.Popen(["sleep", "3600"])
    child.terminate()
    return {"success": True, "child": child.wait(10)}


@handler
def log_lines(params: dict[str, Any], context: DockerTaskContext) -> Result:
    context.logger.info("hello from %s", context.task_type, extra={"tile": 3, "odd": object()})
    logging.getLogger("chaos").warning("password=hunter2 in the log")
    try:
        raise ValueError("inner")
    except ValueError:
        logging.getLogger("chaos").exception("caught")
    Path(params["logged"]).touch()
    context.stop.wait(30)
    return context.interrupted()


@handler
def items(params: dict[str, Any], context: DockerTaskContext) -> Result:
    """A checkpointed task: each item makes its own file and one line of history, then is marked."""
    log = context.checkpoint.items(1)
    effects = Path(params["effects"])
    effects.mkdir(exist_ok=True)
    with (effects / "history").open("a") as history:
        for number in range(params["count"]):
            if str(number) in log:
                continue
            (effects / f"item-{number}").write_text(str(number))
            history.write(f"{number} {context.attempt} {time.monotonic()} {os.getpid()}\n")
            history.flush()
            time.sleep(params.get("seconds", 0.01))
            log.mark(str(number), {"n": number})
            context.report_progress(done=len(log), total=params["count"])
            if context.should_stop():
                return context.interrupted()
    context.checkpoint.save(1, {"items": len(log)})
    return {"success": True, "items": context.checkpoint.get_data("items")}


@handler
def sleeper(params: dict[str, Any], context: DockerTaskContext) -> Result:
    """Finishes a phase, then sleeps in a second one, which it leaves at a stop and goes on with where it was."""
    directory = Path(params["directory"])

    def note(text: str) -> None:
        with (directory / "history").open("a") as history:
            history.write(f"attempt {context.attempt}: {text}\n")

    if not context.checkpoint.should_skip(1):
        note("phase 1")
        context.checkpoint.save(1, {"made_by": context.attempt})
    steps = int((context.checkpoint.cursor or {}).get("steps", 0))
    note(f"phase 2 from step {'0' if steps == 0 else 'n'}")
    (directory / f"asleep-{context.attempt}").touch()
    while not (directory / "wake").exists():
        steps += 1
        if context.stop.wait(0.02):
            context.checkpoint.save_cursor({"steps": steps})
            return context.interrupted(reason=str(context.stop_reason))
    return {"success": True, "made_by": context.checkpoint.get_data("made_by"), "steps": steps}


@handler
def raster(params: Any, context: DockerTaskContext) -> Any:
    """The real raster chain. Its first attempt waits in the middle of the COG for a stop; each phase leaves a line."""
    from services.raster.handlers import process_raster_complete

    directory = Path(context.services["output_dir"]).parent
    send = context.progress_sink

    def noted(progress: Progress) -> None:
        with (directory / "raster-history").open("a") as history:
            history.write(f"{context.attempt} {progress.message}\n")
        if context.attempt == 1 and progress.done:  # pixels: between the validation and the description
            (directory / "in-mid-phase").touch()
            context.stop.wait(60)
        send(progress)

    context.progress_sink = noted
    return process_raster_complete(params, context)


def _overlap(_: int) -> int:
    return sum(number % 7 for number in range(20_000))


@handler
def use_every_kind_of_parallelism(params: dict[str, Any], context: DockerTaskContext) -> Result:
    """Threads that report and log, processes by fork, spawn and forkserver, GDAL's and numpy's own threads."""
    found: dict[str, Any] = {}

    def tile(number: int) -> int:
        context.report_progress(done=number, total=40, unit="tiles")
        context.checkpoint.items(1).mark(str(number))
        context.logger.info("tile %d", number)
        return number

    with ThreadPoolExecutor(4) as threads:
        found["threads"] = sum(threads.map(tile, range(40)))
    for method in params["methods"]:
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as processes:
            found[method] = sum(processes.map(_overlap, range(4)))
    found["gdal"] = _cog_on_all_threads(context.work_dir / "threads.tif")
    with multiprocessing.get_context("fork").Pool(2) as pool:  # after GDAL and BLAS have started threads here
        found["gdal_in_forks"] = pool.map(_mean_of, [str(context.work_dir / "threads.tif")] * 2)
    return {"success": True, "pid": os.getpid(), "items": len(context.checkpoint.items(1)), **found}


def _cog_on_all_threads(path: Path) -> float:
    import numpy
    import rasterio

    values = (numpy.ones((512, 512)) @ numpy.ones((512, 512)) / 512).astype("uint8")
    with (
        rasterio.Env(GDAL_NUM_THREADS="ALL_CPUS"),
        rasterio.open(
            path, "w", driver="COG", width=512, height=512, count=1, dtype="uint8", NUM_THREADS="ALL_CPUS"
        ) as cog,
    ):
        cog.write(values, 1)
    return _mean_of(str(path))


def _mean_of(path: str) -> float:
    import rasterio

    with rasterio.open(path) as source:
        return float(source.read(1).mean())


@handler
def kill_the_worker(params: dict[str, Any], context: DockerTaskContext) -> Result:
    """What a task does that takes its whole worker with it."""
    guardian = _parent_of(os.getpid())
    os.kill(_parent_of(guardian), signal.SIGKILL)
    time.sleep(60)
    return {"success": True}


def _parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


@handler
def eat_then_be_modest(params: dict[str, Any], context: DockerTaskContext) -> Result:
    """Takes a lot of memory, and less when it is told that this was too much."""
    if (error := context.previous_error) is not None:
        return {"success": True, "learned": error.code, "resumed_at": (context.checkpoint.cursor or {}).get("row")}
    ballast = bytearray(params["bytes"])
    ballast[::4096] = b"x" * len(ballast[::4096])
    if context.stop.wait(30):
        context.checkpoint.save_cursor({"row": 512})
        return context.interrupted()
    return {"success": False, "error": "nobody asked"}


@handler
def devour(params: dict[str, Any], context: DockerTaskContext) -> Result:
    """Takes memory until somebody ends it."""
    print("hungry")
    ballast = []
    while True:
        ballast.append(b"x" * (1 << 22))

"""Sources by HTTP from a real server on loopback: whole, resumed, changed, slow, cut, redirected."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.errors import PermanentError, TransientError
from core.storage import Fetched, StorageRefused
from infrastructure import outbound
from infrastructure.storage.download import DownloadLimits
from infrastructure.storage.handler_storage import HandlerStorage, StorageSpec
from services.raster import sample_raster
from services.raster.parameters import ProcessRaster, ValidateRaster
from services.raster.steps import run_validation
from services.raster.watch import StopRequested
from tests.file_server import FileServer, file_server, make_certificate
from tests.raster_support import context_in

CONTENT = hashlib.shake_128(b"seed").digest(3_000_000)
LOOPBACK = StorageSpec(allowed_hosts=("localhost",), allow_private=True, min_free_mb=1)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with file_server() as running:
        yield running


_open: list[HandlerStorage] = []


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    while _open:
        _open.pop().close()


def storage(limits: dict[str, Any] | None = None, **spec: Any) -> HandlerStorage:
    made = StorageSpec(**{**LOOPBACK.as_dict(), **spec})
    bounds = {"min_free_bytes": 1, "pause": lambda seconds: None, **(limits or {})}
    _open.append(HandlerStorage(made, limits=DownloadLimits(**bounds)))
    return _open[-1]


def fetch(url: str, into: Path, using: HandlerStorage | None = None, watch: Any = lambda done, total: None) -> Fetched:
    into.mkdir(exist_ok=True)
    return (using or storage()).fetch(url, into, field="source_url", watch=watch)


def ranges(server: FileServer) -> list[str | None]:
    return [asked.range for asked in server.asked]


def test_a_file_is_copied_whole_with_its_checksum(server: FileServer, tmp_path: Path) -> None:
    url = server.serve("/data/my%20scene.tif", CONTENT)
    fetched = fetch(url, tmp_path / "a")
    assert fetched.path.read_bytes() == CONTENT
    assert (fetched.name, fetched.size) == ("my scene.tif", len(CONTENT))
    assert fetched.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert fetched.shown == url
    assert server.asked[0].host == f"localhost:{server.port}"


def test_what_is_there_is_not_had_again(server: FileServer, tmp_path: Path) -> None:
    url = server.serve("/a.tif", CONTENT)
    first = fetch(url, tmp_path / "a")
    assert fetch(url, tmp_path / "a") == first
    assert len(server.asked) == 1


def test_a_transfer_that_breaks_off_goes_on_where_it_was(server: FileServer, tmp_path: Path) -> None:
    url = server.serve("/a.tif", CONTENT, cut_after=[1_500_000, 700_000])
    fetched = fetch(url, tmp_path / "a")
    assert fetched.sha256 == hashlib.sha256(CONTENT).hexdigest()
    starts = [int(asked.removeprefix("bytes=").rstrip("-")) for asked in ranges(server) if asked]
    assert len(server.asked) == 3
    assert starts == sorted(starts)
    assert starts[-1] >= 1_500_000


def test_another_attempt_goes_on_where_a_killed_one_was(server: FileServer, tmp_path: Path) -> None:
    url = server.serve("/a.tif", CONTENT)

    class Killed(BaseException):
        pass

    def kill(done: int, total: int | None) -> None:
        if done > 1_000_000:
            raise Killed

    with pytest.raises(Killed):
        fetch(url, tmp_path / "a", watch=kill)
    had = (tmp_path / "a" / "data.part").stat().st_size
    assert had > 1_000_000
    fetched = fetch(url, tmp_path / "a")
    assert fetched.path.read_bytes() == CONTENT
    assert ranges(server)[-1] == f"bytes={had}-"


def test_a_copy_that_lacks_only_its_name_is_not_had_again(server: FileServer, tmp_path: Path) -> None:
    url = server.serve("/a.tif", CONTENT)
    first = fetch(url, tmp_path / "a")
    first.path.rename(tmp_path / "a" / "data.part")
    (tmp_path / "a" / "state.json").write_text(json.dumps({"version": first.version, "size": first.size}))
    assert fetch(url, tmp_path / "a").sha256 == first.sha256
    assert len(server.asked) == 1


def test_a_file_that_changed_meanwhile_is_had_from_its_beginning(server: FileServer, tmp_path: Path) -> None:
    url = server.serve("/a.tif", CONTENT, cut_after=[1_500_000])
    changed = CONTENT[::-1]
    served = server.files["/a.tif"]

    def swap() -> None:
        if len(server.asked) == 1:
            served.content, served.etag = changed, '"other"'

    served.before = swap
    fetched = fetch(url, tmp_path / "a")
    assert fetched.path.read_bytes() == changed
    assert fetched.version == '"other"'
    assert [asked.status for asked in server.asked] == [200, 200]


def test_a_file_that_changes_again_and_again_is_given_up(server: FileServer, tmp_path: Path) -> None:
    url = server.serve("/a.tif", CONTENT, cut_after=[1_500_000] * 50)
    served = server.files["/a.tif"]

    def swap() -> None:
        served.etag = f'"{len(server.asked)}"'

    served.before = swap
    with pytest.raises(TransientError, match="changes again and again"):
        fetch(url, tmp_path / "a")
    assert len(server.asked) < 10


def test_a_server_without_ranges_and_tags_is_read_from_the_beginning(server: FileServer, tmp_path: Path) -> None:
    url = server.serve("/a.tif", CONTENT, cut_after=[1_500_000], ranges=False, etag=None)
    assert fetch(url, tmp_path / "a").path.read_bytes() == CONTENT
    assert [asked.status for asked in server.asked] == [200, 200]


def test_a_file_that_always_ends_early_is_a_passing_fault(server: FileServer, tmp_path: Path) -> None:
    url = server.serve("/a.tif", CONTENT, cut_after=[0] * 50)
    with pytest.raises(TransientError):
        fetch(url, tmp_path / "a")
    assert len(server.asked) == 4


def test_a_dripping_server_is_given_up(server: FileServer, tmp_path: Path) -> None:
    url = server.serve("/a.tif", CONTENT, drip=0.01)
    with pytest.raises(TransientError, match="bytes a second"):
        fetch(url, tmp_path / "a", storage({"patience": 0.3, "min_rate": 1e6}))


def test_a_stop_ends_a_transfer(server: FileServer, tmp_path: Path) -> None:
    url = server.serve("/a.tif", CONTENT, drip=0.001)

    def watch(done: int, total: int | None) -> None:
        raise StopRequested

    with pytest.raises(StopRequested):
        fetch(url, tmp_path / "a", watch=watch)


@pytest.mark.parametrize("length", [True, False])
def test_more_than_is_allowed_is_refused_before_or_while_it_comes(
    length: bool, server: FileServer, tmp_path: Path
) -> None:
    url = server.serve("/a.tif", CONTENT, length=length)
    with pytest.raises(StorageRefused) as caught:
        fetch(url, tmp_path / "a", storage({"max_bytes": 1_200_000}))
    assert caught.value.code == "SOURCE_TOO_LARGE"
    assert (tmp_path / "a" / "data.part").stat().st_size < 2_500_000


def test_a_full_disk_is_a_passing_fault(server: FileServer, tmp_path: Path) -> None:
    url = server.serve("/a.tif", CONTENT)
    with pytest.raises(TransientError, match="no space left"):
        fetch(url, tmp_path / "a", storage({"min_free_bytes": 1 << 60}))


def test_a_checksum_that_the_server_gives_is_checked(server: FileServer, tmp_path: Path) -> None:
    url = server.serve("/a.tif", CONTENT, headers={"Content-MD5": "AAAAAAAAAAAAAAAAAAAAAA=="})
    with pytest.raises(TransientError, match="checksum"):
        fetch(url, tmp_path / "a")


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (404, "FILE_NOT_FOUND"),
        (410, "FILE_NOT_FOUND"),
        (401, "FILE_NOT_READABLE"),
        (403, "FILE_NOT_READABLE"),
        (400, "FILE_NOT_READABLE"),
    ],
)
def test_refusals_of_the_server(status: int, code: str, server: FileServer, tmp_path: Path) -> None:
    url = server.serve("/a.tif", b"", status=status)
    with pytest.raises(StorageRefused) as caught:
        fetch(url, tmp_path / "a")
    assert caught.value.code == code


@pytest.mark.parametrize("status", [429, 500, 503])
def test_faults_of_the_server_may_pass(status: int, server: FileServer, tmp_path: Path) -> None:
    url = server.serve("/a.tif", b"", status=status, headers={"Retry-After": "7"})
    with pytest.raises(TransientError) as caught:
        fetch(url, tmp_path / "a")
    assert caught.value.retry_after is not None
    assert caught.value.retry_after.total_seconds() == 7


def test_a_host_that_is_not_allowed_is_not_called(server: FileServer, tmp_path: Path) -> None:
    server.serve("/a.tif", CONTENT)
    with pytest.raises(StorageRefused) as caught:
        fetch(server.url("/a.tif", host="127.0.0.1"), tmp_path / "a")
    assert caught.value.code == "SOURCE_NOT_ALLOWED"
    assert server.asked == []


def test_a_private_address_is_not_called(server: FileServer, tmp_path: Path) -> None:
    server.serve("/a.tif", CONTENT)
    url = server.url("/a.tif").replace("http:", "https:")
    with pytest.raises(StorageRefused, match="private") as caught:
        fetch(url, tmp_path / "a", storage(allow_private=False))
    assert caught.value.code == "SOURCE_NOT_ALLOWED"
    assert server.asked == []


def test_a_redirect_to_another_host_is_checked_as_the_first_was(server: FileServer, tmp_path: Path) -> None:
    server.serve("/secret", b"internal")
    url = server.serve("/a.tif", b"", status=302, location=server.url("/secret", host="127.0.0.1"))
    with pytest.raises(StorageRefused) as caught:
        fetch(url, tmp_path / "a")
    assert caught.value.code == "SOURCE_NOT_ALLOWED"
    assert [asked.path for asked in server.asked] == ["/a.tif"]


def test_a_redirect_to_a_private_address_is_refused(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first host is public, as far as the name service says; where it redirects to is not."""
    server.serve("/secret", b"internal")
    certificate = make_certificate(tmp_path, "files.example")
    with file_server(certificate) as public:
        public.serve("/a.tif", b"", status=302, location=f"https://inside.example:{server.port}/secret")
        real = socket.getaddrinfo
        answers = {"files.example": "127.0.0.1", "inside.example": "10.0.0.7"}
        monkeypatch.setattr(
            socket, "getaddrinfo", lambda host, *rest, **named: real(answers.get(host, host), *rest, **named)
        )
        reached = outbound._reached
        public_address = ipaddress.ip_address("93.184.215.14")
        monkeypatch.setattr(
            outbound, "_reached", lambda address: public_address if address == "127.0.0.1" else reached(address)
        )
        using = storage(allowed_hosts=("*.example",), allow_private=False, ca_bundle=str(certificate))
        with pytest.raises(StorageRefused, match="private") as caught:
            fetch(f"https://files.example:{public.port}/a.tif", tmp_path / "a", using)
        assert [asked.host for asked in public.asked] == [f"files.example:{public.port}"]
    assert server.asked == []
    assert caught.value.code == "SOURCE_NOT_ALLOWED"


def test_a_plain_redirect_is_followed_and_a_loop_is_not(server: FileServer, tmp_path: Path) -> None:
    server.serve("/real.tif", CONTENT)
    url = server.serve("/a.tif", b"", status=307, location="/real.tif")
    assert fetch(url, tmp_path / "a").path.read_bytes() == CONTENT
    loop = server.serve("/loop.tif", b"", status=302, location="/loop.tif")
    with pytest.raises(StorageRefused, match="redirects"):
        fetch(loop, tmp_path / "b")


def test_the_address_that_was_checked_is_the_one_that_is_called(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that resolves to another address at each question: only the first answer counts."""
    url = server.serve("/a.tif", CONTENT)
    real, asked = socket.getaddrinfo, []

    def rebinding(host: Any, *rest: Any, **named: Any) -> Any:
        if host == "localhost":
            asked.append(host)
            host = "127.0.0.1" if len(asked) == 1 else "203.0.113.1"
        return real(host, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    assert fetch(url, tmp_path / "a").path.read_bytes() == CONTENT
    assert asked == ["localhost"]


def test_by_tls_the_certificate_must_be_of_the_host(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    with file_server(certificate) as server:
        url = server.serve("/a.tif", CONTENT)
        trusting = storage(ca_bundle=str(certificate))
        assert fetch(url, tmp_path / "a", trusting).path.read_bytes() == CONTENT
        with pytest.raises(TransientError):
            fetch(url, tmp_path / "b", storage())


@pytest.mark.parametrize("url", ["s3://bucket/a.tif", "ftp://localhost/a.tif", "az://bronze/a.tif", "gopher://x/y"])
def test_other_schemes_are_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(StorageRefused) as caught:
        fetch(url, tmp_path / "a")
    assert caught.value.code == "SOURCE_NOT_SUPPORTED"


def test_validate_raster_of_a_url(server: FileServer, tmp_path: Path) -> None:
    url = server.serve("/scenes/RGB.byte.tif", sample_raster().read_bytes())
    context, _ = context_in(tmp_path)
    context.services = {"storage": storage()}
    found = run_validation(ValidateRaster(source_url=url), context)
    assert found["source_url"] == url
    assert found["source_crs"] == "EPSG:32618"
    assert not (context.work_path / "source").exists()


def test_the_whole_chain_of_a_url(server: FileServer, tmp_path: Path) -> None:
    from services.raster.complete import process

    url = server.serve("/scenes/RGB.byte.tif", sample_raster().read_bytes())
    context, _ = context_in(tmp_path)
    context.services = {"storage": storage()}
    result = process(ProcessRaster(source_url=url, output_dir=str(tmp_path / "out")), context)
    assert result["cog"]["validation"]["pixels_equal_source"] is True
    assert Path(result["cog"]["path"]).name == "RGB.byte.tif"


def test_a_source_that_is_gone_is_a_permanent_error_naming_its_parameter(server: FileServer, tmp_path: Path) -> None:
    context, _ = context_in(tmp_path)
    context.services = {"storage": storage()}
    with pytest.raises(PermanentError, match=r"^source_url: .*is not there"):
        run_validation(ValidateRaster(source_url=server.url("/nothing.tif")), context)

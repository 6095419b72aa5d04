"""An HTTP or HTTPS server of files on loopback that can be told to misbehave."""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_RANGE = re.compile(r"bytes=(\d+)-(\d*)$")


@dataclass
class Served:
    """One file, and how it is served.

    ``cut_after``: bytes of body after which the connection is cut, once for each entry. ``drip``: the body comes a byte
    at a time, each after this event's wait of that many seconds.
    """

    content: bytes
    etag: str | None = None
    ranges: bool = True
    status: int | None = None
    location: str | None = None
    length: bool = True
    cut_after: list[int] = field(default_factory=list)
    drip: float | None = None
    headers: dict[str, str] = field(default_factory=dict)
    before: Callable[[], None] | None = None


@dataclass(frozen=True)
class Asked:
    path: str
    host: str
    range: str | None
    status: int


class FileServer:
    """Its ``files`` by path, and what it was ``asked`` for."""

    def __init__(self, server: ThreadingHTTPServer, scheme: str) -> None:
        self._server, self._scheme = server, scheme
        self.files: dict[str, Served] = {}
        self.asked: list[Asked] = []
        self.closing = threading.Event()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def url(self, path: str, host: str = "localhost") -> str:
        return f"{self._scheme}://{host}:{self.port}{path}"

    def serve(self, path: str, content: bytes, **how: object) -> str:
        self.files[path] = Served(content, etag=f'"{hashlib.md5(content).hexdigest()}"')
        for name, value in how.items():
            setattr(self.files[path], name, value)
        return self.url(path)


def _handler(owner: list[FileServer]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Quiet."""

        def do_GET(self) -> None:
            server = owner[0]
            served = server.files.get(self.path)
            if served is not None and served.before is not None:
                served.before()
            if served is None:
                return self._answer(server, 404, b"")
            if served.status is not None:
                extra = {} if served.location is None else {"Location": served.location}
                return self._answer(server, served.status, b"", **extra, **served.headers)
            start, end, status = 0, len(served.content), 200
            wanted = _RANGE.match(self.headers.get("Range", ""))
            unchanged = self.headers.get("If-Range") in {None, served.etag}
            if served.ranges and wanted and unchanged:
                start = int(wanted[1])
                if start >= len(served.content):
                    return self._answer(server, 416, b"")
                end = min(end, int(wanted[2]) + 1) if wanted[2] else end
                status = 206
            headers = dict(served.headers)
            if status == 206:
                headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(served.content)}"
            if served.etag is not None:
                headers["ETag"] = served.etag
            return self._answer(server, status, served.content[start:end], served, **headers)

        def _answer(
            self, server: FileServer, status: int, body: bytes, served: Served | None = None, **headers: str
        ) -> None:
            asked = Asked(self.path, self.headers.get("Host", ""), self.headers.get("Range"), status)
            server.asked.append(asked)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if served is None or served.length:
                self.send_header("Content-Length", str(len(body)))
            else:
                self.send_header("Connection", "close")
            self.end_headers()
            cut = served.cut_after.pop(0) if served is not None and served.cut_after else None
            try:
                if served is not None and served.drip is not None:
                    for byte in body:
                        self.wfile.write(bytes([byte]))
                        self.wfile.flush()
                        if server.closing.wait(served.drip):
                            break
                else:
                    self.wfile.write(body if cut is None else body[:cut])
            except (BrokenPipeError, ConnectionResetError):
                pass
            if cut is not None or (served is not None and not served.length):
                self.close_connection = True
                self.wfile.flush()
                self.connection.close()

    return Handler


@contextmanager
def file_server(certificate: Path | None = None) -> Iterator[FileServer]:
    """A running server; with ``certificate`` (PEM, key and certificate) by TLS."""
    owner: list[FileServer] = []
    http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(owner))
    http.daemon_threads = True
    http.handle_error = lambda *_: None  # type: ignore[method-assign]
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        http.socket = context.wrap_socket(http.socket, server_side=True)
    server = FileServer(http, "http" if certificate is None else "https")
    owner.append(server)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.closing.set()
    http.shutdown()
    http.server_close()
    thread.join()


def make_certificate(directory: Path, *names: str) -> Path:
    """A self-signed certificate for ``localhost``, 127.0.0.1 and ``names``, with its key, in one PEM file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName(
                [*map(x509.DNSName, ("localhost", *names)), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            ),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = directory / "localhost.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path

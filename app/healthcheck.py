"""What a container's HEALTHCHECK runs: asks this machine's process whether it is alive. Loads nothing heavy."""

from __future__ import annotations

import http.client
import os
import sys

_TIMEOUT_SECONDS = 4.0


def alive(port: int, *, host: str = "127.0.0.1", timeout: float = _TIMEOUT_SECONDS) -> bool:
    """Whether ``GET /livez`` on that port answers 200 within ``timeout`` seconds."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request("GET", "/livez")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(0 if alive(int(os.environ.get("PORT") or "8080")) else 1)

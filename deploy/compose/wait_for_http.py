"""Waits until a URL answers 200: ``wait_for_http.py URL SECONDS``. Exits with 1 when the time runs out."""

import sys
import time
import urllib.error
import urllib.request


def main(url: str, seconds: float) -> int:
    """0 as soon as the URL answers 200, 1 when it has not within ``seconds``."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - the address is the stack's own
                if answer.status == 200:
                    return 0
        except OSError:
            pass
        time.sleep(1)
    print(f"{url} did not answer 200 within {seconds:.0f} s", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2])))

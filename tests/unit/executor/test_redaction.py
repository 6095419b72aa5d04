from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infrastructure.redaction import json_ready, redact


@pytest.mark.parametrize(
    "text",
    [
        "https://x.blob.core.windows.net/c/b.tif?sv=2022-11-02&sr=b&sig=S3CRET%3D",
        "DefaultEndpointsProtocol=https;AccountName=x;AccountKey=S3CRET==;EndpointSuffix=core.windows.net",
        "Endpoint=sb://x/;SharedAccessKeyName=Root;SharedAccessKey=S3CRET=",
        "postgresql://user:S3CRET@host:5432/db",
        "postgresql://user:p@S3CRET@host/db",
        "host=db password=S3CRET dbname=x",
        "host=db password='S3CRET with spaces' dbname=x",
        '{"password": "S3CRET", "user": "x"}',
        "Authorization: Bearer S3CRETS3CRETS3CRET",
        "x-functions-key: S3CRET",
        "SharedAccessSignature sr=x&sig=S3CRET&se=1",
        "redirect to https://y/?next=https%3A%2F%2Fx%3Fsv%3D1%26sig%3DS3CRET",
        "client_secret=S3CRET",
    ],
)
def test_credentials_do_not_pass(text: str) -> None:
    assert "S3CRET" not in redact(text)
    assert "***" in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "task started",
        'password authentication failed for user "x"',
        "EPSG:4326 -> EPSG:3857 at 2026-01-01T12:00:00",
        "https://x.blob.core.windows.net/c/b.tif?version=3",
        "postgresql://host:5432/db",
        "password=''",
    ],
)
def test_ordinary_text_passes_unchanged(text: str) -> None:
    assert redact(text) == text


def test_the_neighbours_of_a_secret_stay_readable() -> None:
    text = redact("postgresql://etl:hunter2@db.internal:5432/geo?sslmode=require")
    assert text == "postgresql://etl:***@db.internal:5432/geo?sslmode=require"


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError("no form at all")


_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.builds(Hostile),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.sets(st.integers()),
    max_leaves=20,
)


@given(_ANYTHING)
def test_anything_becomes_json(value: Any) -> None:
    json.dumps(json_ready(value), allow_nan=False)


def test_cycles_end() -> None:
    cycle: dict[str, Any] = {}
    cycle["again"] = cycle
    json.dumps(json_ready(cycle))


def test_members_with_telling_names_are_hidden() -> None:
    assert json_ready({"Password": "x", "nested": [{"api_key": "y"}], "bands": 3}) == {
        "Password": "***",
        "nested": [{"api_key": "***"}],
        "bands": 3,
    }

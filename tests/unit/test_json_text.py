"""What is said to survive JSON as it is does."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infrastructure.json_text import dumps, is_simple, loads


class Colour(StrEnum):
    RED = "red"


scalars = st.one_of(
    st.text(), st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False, allow_infinity=False)
)
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5)


@given(st.dictionaries(st.text(), values))
def test_a_simple_value_comes_back_from_json_with_the_same_types(value: dict[str, Any]) -> None:
    if is_simple(value):
        back = loads(dumps(value))
        assert back == value
        assert [type(item) for item in back.values()] == [type(item) for item in value.values()]


def test_results_of_plain_handlers_are_simple() -> None:
    assert is_simple({"success": True, "greeting": "hello", "n": 3, "error": None})


@pytest.mark.parametrize(
    "value",
    [
        {"nested": {}},
        {"list": []},
        {"fraction": 1.5},
        {"nan": float("nan")},
        {"text": "h\u00e9llo"},
        {"nul": "a\x00"},
        {"long": "a" * 1001},
        {"large": 2**63},
        {"enumeration": Colour.RED},
        {1: "a number as a key"},
        {Colour.RED: 1},
        {str(number): number for number in range(101)},
        [("pairs", 1)],
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_json_or_the_database_may_change_is_not_simple(value: object) -> None:
    assert not is_simple(value)

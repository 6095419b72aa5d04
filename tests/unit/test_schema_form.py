"""Forms from JSON Schema: every job's own parameters, and back."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from app.dashboard.schema_form import Kind, form_fields, parameters_from
from core.jobs import JobDefinition
from services.registry import job_registry


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Everything(BaseModel):
    name: str = Field(min_length=1, max_length=9, pattern="^a", description="A name.", examples=["abc"])
    n: int = Field(default=3, ge=0, le=10)
    share: float | None = Field(default=None, gt=0)
    loud: bool = True
    colour: Colour = Colour.RED
    size: Literal[1, 2, 4] = 2
    at: datetime | None = None
    steps: tuple[int, ...] = (3, 4)
    colours: tuple[Colour, ...] = ()
    area: str | list[float] | dict[str, Any] = "LAND"
    only: Literal["this"] = "this"


def test_each_kind_of_parameter_has_a_field_of_its_own() -> None:
    fields = {field.name: field for field in form_fields(Everything.model_json_schema())}
    assert {name: field.kind for name, field in fields.items()} == {
        "name": Kind.TEXT,
        "n": Kind.INTEGER,
        "share": Kind.NUMBER,
        "loud": Kind.SWITCH,
        "colour": Kind.CHOICE,
        "size": Kind.CHOICE,
        "at": Kind.MOMENT,
        "steps": Kind.LIST,
        "colours": Kind.CHOICES,
        "area": Kind.JSON,
        "only": Kind.CHOICE,
    }
    assert next(iter(fields)) == "name"
    assert (fields["name"].required, fields["name"].max_length, fields["name"].example) == (True, 9, "abc")
    assert (fields["n"].value, fields["n"].hint) == ("3", "0 to 10")
    assert (fields["loud"].value, fields["steps"].value, fields["size"].choices) == ("true", "3, 4", ("1", "2", "4"))


def test_what_was_filled_in_becomes_json() -> None:
    schema = Everything.model_json_schema()
    given = {
        "name": ["a b"],
        "n": ["7"],
        "share": ["0.25"],
        "colour": ["blue"],
        "size": ["4"],
        "at": ["2026-01-31T12:00"],
        "steps": ["5, 6,\n7"],
        "colours": ["red", "blue"],
        "area": ["[1, 2, 3, 4]"],
        "only": [""],
    }
    parameters, faults = parameters_from(form_fields(schema, given), given)
    assert faults == []
    assert parameters == {
        "name": "a b",
        "n": 7,
        "share": 0.25,
        "loud": False,
        "colour": "blue",
        "size": 4,
        "at": "2026-01-31T12:00:00+00:00",
        "steps": [5, 6, 7],
        "colours": ["red", "blue"],
        "area": [1, 2, 3, 4],
    }
    Everything.model_validate(parameters)


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("n", "many", "whole number"),
        ("share", "a bit", "a number"),
        ("size", "3", "one of 1, 2, 4"),
        ("at", "noon", "date and time"),
        ("steps", "1, x", "whole number"),
        ("area", "{broken", "not JSON"),
    ],
)
def test_what_cannot_be_read_names_its_field(name: str, text: str, part: str) -> None:
    given = {"name": ["a"], name: [text]}
    fields = form_fields(Everything.model_json_schema(), given)
    _, faults = parameters_from(fields, given)
    assert [fault.field for fault in faults] == [name]
    assert part in faults[0].message
    assert next(field.value for field in fields if field.name == name) == text


@pytest.mark.parametrize("definition", [pytest.param(one, id=one.job_type) for one in job_registry().values()])
def test_the_defaults_of_every_job_pass_its_own_check(definition: JobDefinition[Any]) -> None:
    schema = definition.parameters.model_json_schema()
    needed = {"source_url": "/data/a.tif", "area": "RWA", "grid_id": "g", "resolution": "3", "task_type": "x"}
    fields = form_fields(schema)
    given = {
        field.name: list(field.selected) if field.kind is Kind.CHOICES else [needed.get(field.name, field.value)]
        for field in fields
        if not (field.kind is Kind.SWITCH and field.value == "false")
    }
    if any(field.required and not given.get(field.name, [""])[0] for field in fields):
        pytest.skip("needs more than this test knows")
    parameters, faults = parameters_from(fields, given)
    assert faults == []
    definition.parameters.model_validate(parameters)

"""Forms from JSON Schema: a field for each parameter of a job, and what was filled in back to JSON.

Covers what pydantic writes for parameters (https://docs.pydantic.dev/latest/concepts/json_schema/): references,
nullable types, enumerations, constants, numbers with bounds, text with lengths and patterns, moments, lists of plain
values. What has another shape is filled in as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, assert_never

from core.errors import Fault

Schema = Mapping[str, Any]


class Kind(StrEnum):
    """How a field is filled in."""

    TEXT = "text"
    INTEGER = "integer"
    NUMBER = "number"
    SWITCH = "switch"
    CHOICE = "choice"
    CHOICES = "choices"
    MOMENT = "moment"
    LIST = "list"  # one value a line, or with commas between them
    JSON = "json"


@dataclass(frozen=True, slots=True, kw_only=True)
class FormField:
    """A parameter as a field. ``value`` is what the form shows first; ``choices`` are texts."""

    name: str
    label: str
    kind: Kind
    description: str
    required: bool
    value: str
    selected: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    min_length: int | None = None
    max_length: int | None = None
    pattern: str | None = None
    example: str = ""
    schema: Schema

    @property
    def hint(self) -> str:
        """What may be filled in, in words."""
        parts = []
        if self.minimum is not None and self.maximum is not None:
            parts.append(f"{self.minimum:g} to {self.maximum:g}")
        elif self.minimum is not None:
            parts.append(f"at least {self.minimum:g}")
        elif self.maximum is not None:
            parts.append(f"at most {self.maximum:g}")
        if self.kind is Kind.LIST:
            parts.append("several values with commas between them")
        if self.kind is Kind.JSON:
            parts.append("text, or JSON")
        return "; ".join(parts)


def form_fields(schema: Schema, given: Mapping[str, Sequence[str]] | None = None) -> Sequence[FormField]:
    """The fields of an object schema, required ones first; ``given`` is what was filled in before."""
    required = set(schema.get("required", ()))
    made = [
        _field(name, _resolved(part, schema), name in required, given)
        for name, part in schema.get("properties", {}).items()
    ]
    return sorted(made, key=lambda field: not field.required)


def _field(name: str, part: Schema, required: bool, given: Mapping[str, Sequence[str]] | None) -> FormField:
    kind = _kind(part)
    default = part.get("default")
    items = part.get("items", {})
    choices = tuple(_text(value) for value in (items if kind is Kind.CHOICES else part).get("enum", ()))
    values = given.get(name, ()) if given is not None else None
    if values is None:
        value = _shown(kind, default)
        selected = tuple(_text(one) for one in default or ()) if kind is Kind.CHOICES else ()
    else:
        value, selected = (values[0] if values else ""), tuple(values)
    if kind is Kind.SWITCH and values is not None:
        value = "true" if "true" in values else "false"
    examples = part.get("examples") or ()
    return FormField(
        name=name,
        label=name.replace("_", " "),
        kind=kind,
        description=str(part.get("description", "")),
        required=required,
        value=value,
        selected=selected,
        choices=choices,
        minimum=part.get("minimum", part.get("exclusiveMinimum")),
        maximum=part.get("maximum", part.get("exclusiveMaximum")),
        min_length=part.get("minLength"),
        max_length=part.get("maxLength"),
        pattern=part.get("pattern"),
        example=_text(examples[0]) if examples else "",
        schema=part,
    )


def _resolved(part: Schema, root: Schema) -> Schema:
    """``part`` with its reference followed and its ``null`` alternative taken out."""
    merged = dict(part)
    if "$ref" in merged:
        target: Any = root
        for step in str(merged.pop("$ref")).removeprefix("#/").split("/"):
            target = target[step]
        merged = {**_resolved(target, root), **merged}
    if len(merged.get("allOf", ())) == 1:
        merged = {**_resolved(merged.pop("allOf")[0], root), **merged}
    alternatives = [one for one in merged.get("anyOf", ()) if one.get("type") != "null"]
    if len(alternatives) == 1:
        del merged["anyOf"]
        merged = {**_resolved(alternatives[0], root), **merged}
    if "items" in merged:
        merged["items"] = _resolved(merged["items"], root)
    if "const" in merged:
        merged["enum"] = [merged["const"]]
    return merged


_PLAIN = {"boolean": Kind.SWITCH, "integer": Kind.INTEGER, "number": Kind.NUMBER, "string": Kind.TEXT}


def _kind(part: Schema) -> Kind:
    items = part.get("items", {})
    if "enum" in part:
        return Kind.CHOICE
    if part.get("type") == "array":
        if "enum" in items:
            return Kind.CHOICES
        return Kind.LIST if items.get("type") in {"integer", "number", "string"} else Kind.JSON
    if part.get("format") == "date-time":
        return Kind.MOMENT
    return _PLAIN.get(part.get("type", ""), Kind.JSON)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _shown(kind: Kind, default: Any) -> str:
    if default is None:
        return ""
    if kind is Kind.LIST:
        return ", ".join(_text(one) for one in default)
    return _text(default)


def parameters_from(
    fields: Sequence[FormField], given: Mapping[str, Sequence[str]]
) -> tuple[dict[str, Any], list[Fault]]:
    """What was filled in as JSON values, and what cannot be read. Empty fields are left to their defaults."""
    parameters: dict[str, Any] = {}
    faults: list[Fault] = []
    for field in fields:
        values = [value for value in given.get(field.name, ()) if value.strip()]
        if field.kind is Kind.SWITCH:
            parameters[field.name] = "true" in values
        elif values:
            try:
                parameters[field.name] = _value(field, values)
            except ValueError as error:
                faults.append(Fault(field.name, str(error), values[0][:200]))
        elif field.kind is Kind.CHOICES:
            parameters[field.name] = []
    return parameters, faults


def _value(field: FormField, values: Sequence[str]) -> Any:  # noqa: PLR0911 - one return a kind
    first = values[0].strip()
    match field.kind:
        case Kind.TEXT:
            return values[0]
        case Kind.INTEGER | Kind.NUMBER:
            return _number(first, whole=field.kind is Kind.INTEGER)
        case Kind.SWITCH:
            return first == "true"
        case Kind.CHOICE:
            return _choice(field.schema, first)
        case Kind.CHOICES:
            return [_choice(field.schema["items"], value) for value in values]
        case Kind.MOMENT:
            return _moment(first)
        case Kind.LIST:
            parts = [part.strip() for part in first.replace("\n", ",").split(",") if part.strip()]
            kind = field.schema["items"]["type"]
            return parts if kind == "string" else [_number(part, whole=kind == "integer") for part in parts]
        case Kind.JSON:
            return _json(field.schema, first)
        case _:
            assert_never(field.kind)


def _number(text: str, *, whole: bool) -> int | float:
    try:
        return int(text) if whole else float(text)
    except ValueError:
        raise ValueError("must be a whole number" if whole else "must be a number") from None


def _choice(schema: Schema, text: str) -> Any:
    for value in schema.get("enum", ()):
        if _text(value) == text:
            return value
    raise ValueError(f"must be one of {', '.join(_text(value) for value in schema.get('enum', ()))}")


def _moment(text: str) -> str:
    """A moment with its zone; a browser's ``datetime-local`` has none and is taken as UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("must be a date and time") from None
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).isoformat()


def _json(schema: Schema, text: str) -> Any:
    """JSON where it looks like JSON; plain text where the parameter may be text."""
    takes_text = any(one.get("type") == "string" for one in schema.get("anyOf", ()))
    if takes_text and text[0] not in '{["':
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"is not JSON: {error}") from None

"""Reads Bicep files as far as the checks need: what is declared, what is used, and the objects that are written down.

The syntax tree is that of tree-sitter's grammar. No compiler is involved; ``deploy/azure/README.md`` says what that
means.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import tree_sitter_bicep
from tree_sitter import Language, Node, Parser

FOLDER = Path(__file__).parents[2] / "deploy" / "azure"
FUNCTIONS = frozenset(
    {
        *("concat", "contains", "empty", "first", "format", "guid", "int", "items", "join", "json", "last", "length"),
        *("map", "max", "min", "replace", "resourceGroup", "string", "subscription", "subscriptionResourceId", "take"),
        *("toLower", "toObject", "toUpper", "union", "uniqueString"),
    }
)

_PARSER = Parser(Language(tree_sitter_bicep.language()))
_DECLARATIONS = {
    "parameter_declaration": "param",
    "variable_declaration": "var",
    "resource_declaration": "resource",
    "module_declaration": "module",
    "output_declaration": "output",
}


def text(node: Node) -> str:
    """The source of a node."""
    return (node.text or b"").decode()


def walk(node: Node) -> Iterator[Node]:
    """The node and everything in it."""
    yield node
    for child in node.children:
        yield from walk(child)


def literal(node: Node) -> str | None:
    """The text of a string without interpolation; None for anything else."""
    if node.type != "string" or any(child.type == "interpolation" for child in node.children):
        return None
    return text(node)[1:-1].replace("\\'", "'")


def properties(node: Node) -> Mapping[str, Node]:
    """The properties of an object that is written down (of a conditional or loop, of its body)."""
    body = node if node.type == "object" else next((one for one in walk(node) if one.type == "object"), None)
    found: dict[str, Node] = {}
    for child in body.named_children if body is not None else []:
        if child.type == "object_property" and len(child.named_children) == 2:
            key, value = child.named_children
            found[literal(key) or text(key)] = value
    return found


@dataclass(frozen=True, slots=True)
class Declaration:
    """One declared symbol: its kind, what stands after its name, and its decorators."""

    kind: str
    name: str
    node: Node
    decorators: tuple[str, ...] = ()

    @property
    def type(self) -> str:
        """``Microsoft.X/y@version`` of a resource, or the path of a module."""
        return literal(self.node.named_children[1]) or ""

    @property
    def body(self) -> Node:
        """What is declared: the object, the value, the default."""
        return self.node.named_children[-1]

    @property
    def existing(self) -> bool:
        """Whether a resource is only referred to."""
        return any(child.type == "existing" or text(child) == "existing" for child in self.node.children)

    @property
    def has_default(self) -> bool:
        """Whether a parameter may be left out."""
        return len(self.node.named_children) > 2

    @property
    def condition(self) -> str | None:
        """The text of ``if (…)``."""
        inside = next((child for child in self.node.named_children if child.type == "if_statement"), None)
        return text(inside.named_children[0]) if inside is not None else None


@dataclass
class Bicep:
    """One file."""

    path: Path
    root: Node = field(repr=False)

    @classmethod
    def read(cls, path: Path) -> Bicep:
        return cls(path, _PARSER.parse(path.read_bytes()).root_node)

    @classmethod
    def parse(cls, source: str) -> Bicep:
        return cls(Path("text.bicep"), _PARSER.parse(source.encode()).root_node)

    @cached_property
    def declarations(self) -> list[Declaration]:
        """Every declaration, nested resources included, in order."""
        found: list[Declaration] = []
        self._collect(self.root, found)
        return found

    def _collect(self, node: Node, found: list[Declaration]) -> None:
        decorators: tuple[str, ...] = ()
        for child in node.named_children:
            if child.type == "decorators":
                decorators = tuple(text(one) for one in child.named_children)
                continue
            if child.type in _DECLARATIONS:
                name = text(child.named_children[0])
                found.append(Declaration(_DECLARATIONS[child.type], name, child, decorators))
            self._collect(child, found)
            decorators = ()

    def of(self, kind: str) -> dict[str, Declaration]:
        """The declarations of one kind by name."""
        return {one.name: one for one in self.declarations if one.kind == kind}

    @cached_property
    def uses(self) -> list[str]:
        """Every identifier in the place of a value, with those that loops and lambdas bring left out."""
        return list(_uses(self.root, frozenset()))

    def resource_types(self) -> Iterator[tuple[Declaration, str]]:
        """Resources with their full types; a nested one continues its parent's."""
        for declaration in self.of("resource").values():
            yield declaration, _full_type(declaration.node)

    def syntax_faults(self) -> list[str]:
        """Where the grammar does not fit."""
        return [
            f"{self.path.name}:{node.start_point[0] + 1}: {text(node)[:60]!r}"
            for node in walk(self.root)
            if node.is_error or node.is_missing
        ]

    def symbol_faults(self) -> list[str]:
        """Identifiers that nothing declares, parameters and variables that nothing uses."""
        declared = {one.name for one in self.declarations if one.kind != "output"}
        used = set(self.uses)
        faults = [f"{self.path.name}: {name} is not declared" for name in sorted(used - declared - FUNCTIONS)]
        for kind in ("param", "var"):
            faults += [f"{self.path.name}: {kind} {name} is not used" for name in self.of(kind) if name not in used]
        return faults


def _full_type(node: Node) -> str:
    own = literal(node.named_children[1]) or ""
    parent = node.parent
    while parent is not None and parent.type != "resource_declaration":
        parent = parent.parent
    if parent is None:
        return own
    outer, _, version = _full_type(parent).partition("@")
    return f"{outer}/{own}@{version}"


def _uses(node: Node, bound: frozenset[str]) -> Iterator[str]:
    match node.type:
        case "identifier":
            if text(node) not in bound:
                yield text(node)
        case "decorators" | "type":
            return
        case "parameter_declaration" | "variable_declaration" | "output_declaration":
            for child in node.named_children[1:]:
                yield from _uses(child, bound)
        case "resource_declaration" | "module_declaration":
            for child in node.named_children[2:]:
                yield from _uses(child, bound)
        case "object_property" if len(node.named_children) == 2:
            key, value = node.named_children
            if key.type != "identifier":
                yield from _uses(key, bound)
            yield from _uses(value, bound)
        case "for_statement" | "lambda_expression":
            children = node.named_children
            names = frozenset(text(child) for child in children[:1])
            for child in children[1:]:
                yield from _uses(child, bound | names)
        case _:
            for child in node.named_children:
                yield from _uses(child, bound)

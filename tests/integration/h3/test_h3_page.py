"""The SQL and the commands of docs/h3.md."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from app.cli import parse_parameters
from core.handlers import validate
from infrastructure.postgres.database import Database
from infrastructure.postgres.h3_store import PostgresGridStore
from services.registry import handler_registry, job_registry
from tests.h3_support import Task

PAGE = (Path(__file__).parents[3] / "docs" / "h3.md").read_text()


def test_the_queries_of_the_page_answer(database: Database, tmp_path: Path) -> None:
    parameters = {"area": "RWA", "target_resolutions": [7, 9], "grid_id": "rwanda-fine", "picture": False}
    Task("h3_bootstrap_complete", parameters, tmp_path, PostgresGridStore(database)).result()
    (block,) = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
    queries = re.sub(r"--.*", "", block).split(";")[:-1]
    answers = [database.rows(query) for query in queries]  # type: ignore[arg-type]
    assert [len(answer) for answer in answers] == [1, 7**3, 1, 1, 0]
    assert answers[0][0]["count"] == 212_070


@pytest.mark.parametrize("line", re.findall(r"^geoworker (?:submit|run-handler) .*$", PAGE, re.MULTILINE))
def test_the_commands_of_the_page_have_parameters_that_fit(line: str) -> None:
    words = [word for word in shlex.split(line, comments=True)[1:] if not word.startswith("--")]
    registry = job_registry() if words[0] == "submit" else handler_registry()
    model = registry[words[1]].parameters
    assert model is not None
    validate(model, parse_parameters(None, tuple(words[2:])), subject=words[1])

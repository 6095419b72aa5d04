"""Names of work directories: one for each task, on any file system, and back to the task."""

from __future__ import annotations

import string

from hypothesis import example, given
from hypothesis import strategies as st

from core.work_directories import task_directory, task_of_directory

SAFE = frozenset(string.ascii_lowercase + string.digits + "_")


@given(st.text(max_size=300))
def test_a_name_is_safe_anywhere(task_id: str) -> None:
    name = task_directory(task_id)
    assert 0 < len(name) <= 200
    assert set(name) <= SAFE


@given(st.text(min_size=1, max_size=66).filter(lambda text: len(text.encode("utf-8", "surrogatepass")) <= 66))
def test_a_name_leads_back_to_its_task(task_id: str) -> None:
    assert task_of_directory(task_directory(task_id)) == task_id


@given(st.lists(st.text(max_size=300), min_size=2, max_size=2, unique=True))
def test_no_two_tasks_share_a_directory_even_where_case_does_not_count(pair: list[str]) -> None:
    assert task_directory(pair[0]).casefold() != task_directory(pair[1]).casefold()


@given(st.text(max_size=40))
@example("_61")
def test_any_other_name_is_no_tasks(name: str) -> None:
    found = task_of_directory(name)
    assert found is None or task_directory(found) == name


def test_the_id_of_a_planned_task_is_its_directory() -> None:
    assert task_directory("0123abcdef" * 4) == "0123abcdef" * 4

"""The wire form of messages."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import MalformedMessage
from core.messages import JobMessage, Message, StageComplete, TaskEnded, TaskMessage, decode, encode, from_document

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:~-]{0,60}", fullmatch=True)
messages = st.one_of(
    st.builds(JobMessage, job_id=names, job_type=names),
    st.builds(
        TaskMessage,
        task_id=names,
        parent_job_id=names,
        job_type=names,
        task_type=names,
        stage=st.integers(1, 100),
        task_index=st.integers(0, 10**6),
        attempt=st.integers(0, 1000),
    ),
    st.builds(StageComplete, job_id=names, job_type=names, completed_stage=st.integers(1, 100)),
    st.builds(TaskEnded, task_id=names, parent_job_id=names),
)


@given(messages)
def test_a_message_survives_the_wire(message: Message) -> None:
    assert decode(encode(message)) == message
    assert from_document(json.loads(encode(message))) == message


@given(st.binary(max_size=200))
def test_no_bytes_break_the_decoder(body: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode(body)


def test_a_fault_names_its_field() -> None:
    with pytest.raises(MalformedMessage, match=r"task\.stage"):
        decode(b'{"message_type":"task","task_id":"a","parent_job_id":"b","job_type":"c","task_type":"d","stage":0}')
    with pytest.raises(MalformedMessage, match=r"job\.job_id"):
        from_document({"message_type": "job", "job_type": "b"})


def test_fields_of_a_newer_sender_are_ignored() -> None:
    body = b'{"message_type":"job","job_id":"a","job_type":"b","colour":"blue"}'
    assert decode(body) == JobMessage(job_id="a", job_type="b")

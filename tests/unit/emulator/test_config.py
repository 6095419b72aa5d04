"""The emulator's configuration: the official file format, and what is wrong with a bad one."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from core.errors import ConfigurationError
from testing.emulator import EmulatorConfig, QueueConfig, ServiceBusEmulator, load_config, parse_config
from testing.emulator.config import parse_duration


def document(**properties: Any) -> dict[str, Any]:
    queue = {"Name": "long-running-tasks", "Properties": properties}
    return {"UserConfig": {"Namespaces": [{"Name": "sbemulatorns", "Queues": [queue], "Topics": []}]}}


OFFICIAL = document(
    DeadLetteringOnMessageExpiration=False,
    DefaultMessageTimeToLive="PT1H",
    DuplicateDetectionHistoryTimeWindow="PT20S",
    ForwardDeadLetteredMessagesTo="",
    ForwardTo="",
    LockDuration="PT1M",
    MaxDeliveryCount=3,
    RequiresDuplicateDetection=True,
    RequiresSession=False,
)


def test_the_official_file_is_understood(tmp_path: Path) -> None:
    path = tmp_path / "Config.json"
    path.write_text(json.dumps(OFFICIAL))
    expected = QueueConfig(
        name="long-running-tasks",
        lock_duration=timedelta(minutes=1),
        max_delivery_count=3,
        default_message_time_to_live=timedelta(hours=1),
        requires_duplicate_detection=True,
        duplicate_detection_history_time_window=timedelta(seconds=20),
    )
    assert load_config(path) == EmulatorConfig(queues=(expected,))
    assert ServiceBusEmulator.from_config_file(path).config.queues == (expected,)


@pytest.mark.parametrize(
    ("properties", "message"),
    [
        ({"LockDuration": "1m"}, r"Queues\[0\].Properties.LockDuration: must be an ISO 8601 duration"),
        ({"LockDuration": 60}, r"Properties.LockDuration: must be an ISO 8601 duration"),
        ({"LockDuration": "PT6M"}, r"Properties.LockDuration: must be above zero and at most five minutes"),
        ({"MaxDeliveryCount": 0}, r"Properties.MaxDeliveryCount: must be 1 to 2000"),
        ({"MaxDeliveryCount": "3"}, r"Properties.MaxDeliveryCount: must be a whole number"),
        ({"MaxDeliveryCount": True}, r"Properties.MaxDeliveryCount: must be a whole number"),
        ({"DefaultMessageTimeToLive": "PT0S"}, r"Properties.DefaultMessageTimeToLive: must be above zero"),
        ({"RequiresSession": True}, r"Properties.RequiresSession: sessions are not modelled"),
        ({"RequiresSession": "no"}, r"Properties.RequiresSession: must be true or false"),
        ({"ForwardTo": "other"}, r"Properties.ForwardTo: forwarding is not modelled"),
        ({"LockDurations": "PT1M"}, r"Properties.LockDurations: is no queue property; known: .*LockDuration"),
    ],
)
def test_a_bad_property_is_named(properties: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        parse_config(document(**properties))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "UserConfig: must be an object"),
        ({}, "UserConfig: must be an object"),
        ({"UserConfig": {"Namespaces": []}}, "UserConfig.Namespaces: must be a list with at least one entry"),
        ({"UserConfig": {"Namespaces": [{"Queues": []}]}}, r"Namespaces\[0\].Queues: must be a list"),
        ({"UserConfig": {"Namespaces": [{"Queues": ["q"]}]}}, r"Queues\[0\]: must be an object"),
        ({"UserConfig": {"Namespaces": [{"Queues": [{}]}]}}, r"Queues\[0\].Name: must be the queue's name"),
        ({"UserConfig": {"Namespaces": [{"Queues": [{"Name": "a b"}]}]}}, r"Queues\[0\].Name: must be 1 to 260"),
        ({"UserConfig": {"Namespaces": [{"Queues": [{"Name": "q"}], "Topics": [{}]}]}}, "Topics: topics are not"),
        ({"UserConfig": {"Namespaces": [{"Queues": [{"Name": "q"}]}, {}]}}, "Namespaces: one namespace is served"),
        ({"UserConfig": {"Namespaces": [{"Queues": [{"Name": "q"}, {"Name": "Q"}]}]}}, "names must differ"),
    ],
)
def test_a_bad_shape_is_named(given: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        parse_config(given)


def test_every_fault_is_told_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_config(document(LockDuration="x", MaxDeliveryCount="y", ForwardTo="z"))
    assert [fault.field.rpartition(".")[2] for fault in caught.value.faults] == [
        "LockDuration",
        "MaxDeliveryCount",
        "ForwardTo",
    ]


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"missing.json: file: cannot be read"):
        load_config(tmp_path / "missing.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ConfigurationError, match=r"broken.json: file: is not JSON"):
        load_config(tmp_path / "broken.json")


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("PT1M", 60), ("PT5S", 5), ("P1DT12H", 129_600), ("PT0.5S", 0.5), ("P2D", 172_800), ("PT1H30M", 5400)],
)
def test_durations(given: str, seconds: float) -> None:
    assert parse_duration(given).total_seconds() == seconds


@pytest.mark.parametrize("given", ["", "P", "PT", "1M", "P1M", "PT1D", "-PT1M", "pt1m", None, 5])
def test_what_is_no_duration(given: Any) -> None:
    with pytest.raises(ValueError, match="ISO 8601"):
        parse_duration(given)


def test_values_are_checked_too() -> None:
    with pytest.raises(ConfigurationError, match="lock_duration"):
        QueueConfig(name="q", lock_duration=timedelta(0))
    with pytest.raises(ConfigurationError, match="max_message_size"):
        EmulatorConfig(max_message_size=1)
    with pytest.raises(ConfigurationError, match="at least one queue"):
        EmulatorConfig(queues=())

"""What the emulator serves: queues and credentials, as values or from the official emulator's ``Config.json``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from core.errors import ConfigurationError, Fault

DEFAULT_QUEUES = ("geospatial-jobs", "geospatial-tasks", "long-running-tasks")
MAX_LOCK_DURATION = timedelta(minutes=5)

_DURATION = re.compile(
    r"P(?=.)(?:(?P<days>\d+)D)?(?:T(?=.)(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?(?:(?P<seconds>\d+(?:\.\d+)?)S)?)?"
)
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/~-]{0,258}[A-Za-z0-9_])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueConfig:
    """One queue. Raises ConfigurationError naming the value that is out of range."""

    name: str
    lock_duration: timedelta = timedelta(minutes=1)
    max_delivery_count: int = 10
    default_message_time_to_live: timedelta | None = None
    dead_lettering_on_message_expiration: bool = False
    requires_duplicate_detection: bool = False
    duplicate_detection_history_time_window: timedelta = timedelta(minutes=1)

    def __post_init__(self) -> None:
        faults = []
        if not _NAME.fullmatch(self.name):
            faults.append(Fault("name", "must be 1 to 260 letters, digits, '.', '-', '_', '/' or '~'", self.name))
        if not timedelta(0) < self.lock_duration <= MAX_LOCK_DURATION:
            faults.append(
                Fault("lock_duration", "must be above zero and at most five minutes", str(self.lock_duration))
            )
        if not 1 <= self.max_delivery_count <= 2000:
            faults.append(Fault("max_delivery_count", "must be 1 to 2000", self.max_delivery_count))
        if self.default_message_time_to_live is not None and self.default_message_time_to_live <= timedelta(0):
            given = str(self.default_message_time_to_live)
            faults.append(Fault("default_message_time_to_live", "must be above zero", given))
        if self.duplicate_detection_history_time_window <= timedelta(0):
            given = str(self.duplicate_detection_history_time_window)
            faults.append(Fault("duplicate_detection_history_time_window", "must be above zero", given))
        if faults:
            raise ConfigurationError(f"queue {self.name!r}", faults)


def default_queues() -> tuple[QueueConfig, ...]:
    """The three queues of the project, with a lock of one minute and ten deliveries."""
    return tuple(QueueConfig(name=name) for name in DEFAULT_QUEUES)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmulatorConfig:
    """The namespace. ``key`` is compared with what clients sign; its default is the literal the official emulator uses.

    ``max_message_size`` is in bytes. ``idle_timeout`` is how long a client may be silent before its connection closes.
    """

    queues: tuple[QueueConfig, ...] = field(default_factory=default_queues)
    namespace: str = "sbemulatorns"
    key_name: str = "RootManageSharedAccessKey"
    key: str = field(default="SAS_KEY_VALUE", repr=False)
    max_message_size: int = 256 * 1024
    idle_timeout: timedelta = timedelta(minutes=4)

    def __post_init__(self) -> None:
        names = [queue.name.lower() for queue in self.queues]
        doubled = sorted({name for name in names if names.count(name) > 1})
        faults = []
        if not names:
            faults.append(Fault("queues", "must name at least one queue", []))
        if doubled:
            faults.append(Fault("queues", "names must differ, whatever their case", doubled))
        if self.max_message_size < 1024:
            faults.append(Fault("max_message_size", "must be at least 1024 bytes", self.max_message_size))
        if self.idle_timeout < timedelta(milliseconds=100):
            faults.append(Fault("idle_timeout", "must be at least 100 ms", str(self.idle_timeout)))
        if faults:
            raise ConfigurationError("emulator", faults)


def load_config(path: Path | str) -> EmulatorConfig:
    """Read a ``Config.json`` as the official emulator takes it.

    Raises ConfigurationError that names every field that is missing, malformed or asks for what is not modelled
    (topics, sessions, forwarding).
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigurationError(str(path), [Fault("file", f"cannot be read: {exc.strerror}", str(path))]) from exc
    except ValueError as exc:
        raise ConfigurationError(str(path), [Fault("file", f"is not JSON: {exc}", str(path))]) from exc
    return parse_config(document, subject=str(path))


def parse_config(document: Any, *, subject: str = "Config.json") -> EmulatorConfig:
    """The same from the parsed JSON. Raises ConfigurationError."""
    reader = _Reader()
    queues: list[QueueConfig] = []
    namespaces = reader.items(reader.mapping(document, "", "UserConfig"), "UserConfig", "Namespaces")
    if len(namespaces) > 1:
        reader.fault("UserConfig.Namespaces", "one namespace is served", len(namespaces))
    namespace = "sbemulatorns"
    for where, entry in namespaces[:1]:
        namespace = str(entry.get("Name", namespace))
        if entry.get("Topics"):
            reader.fault(f"{where}.Topics", "topics are not modelled; leave it empty", f"{len(entry['Topics'])} topics")
        for place, queue in reader.items(entry, where, "Queues"):
            parsed = reader.queue(queue, place)
            if parsed is not None:
                queues.append(parsed)
    if reader.faults:
        raise ConfigurationError(subject, reader.faults)
    return EmulatorConfig(queues=tuple(queues), namespace=namespace)


def parse_duration(value: Any) -> timedelta:
    """An ISO 8601 duration of days to seconds, such as PT1M or P1DT12H. Raises ValueError."""
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError("must be an ISO 8601 duration such as PT1M or P1DT12H")
    return timedelta(**{unit: float(number) for unit, number in found.groupdict().items() if number is not None})


_DURATIONS = {
    "LockDuration": "lock_duration",
    "DefaultMessageTimeToLive": "default_message_time_to_live",
    "DuplicateDetectionHistoryTimeWindow": "duplicate_detection_history_time_window",
}
_FLAGS = {
    "DeadLetteringOnMessageExpiration": "dead_lettering_on_message_expiration",
    "RequiresDuplicateDetection": "requires_duplicate_detection",
}
_NOT_MODELLED = ("ForwardTo", "ForwardDeadLetteredMessagesTo")


class _Reader:
    """Reads untyped JSON and collects what is wrong with it instead of stopping at the first fault."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []

    def fault(self, where: str, message: str, given: Any) -> None:
        self.faults.append(Fault(where, message, given))

    def mapping(self, value: Any, where: str, key: str) -> Mapping[str, Any]:
        place = f"{where}.{key}".lstrip(".")
        found = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(found, Mapping):
            return found
        self.fault(place, "must be an object", found)
        return {}

    def items(self, value: Mapping[str, Any], where: str, key: str) -> list[tuple[str, Mapping[str, Any]]]:
        if not value and self.faults:
            return []
        found = value.get(key)
        if not isinstance(found, list) or not found:
            self.fault(f"{where}.{key}", "must be a list with at least one entry", found)
            return []
        places = [(f"{where}.{key}[{index}]", item) for index, item in enumerate(found)]
        for place, item in places:
            if not isinstance(item, Mapping):
                self.fault(place, "must be an object", item)
        return [(place, item) for place, item in places if isinstance(item, Mapping)]

    def queue(self, entry: Mapping[str, Any], where: str) -> QueueConfig | None:
        before = len(self.faults)
        name = entry.get("Name")
        if not isinstance(name, str) or not name:
            self.fault(f"{where}.Name", "must be the queue's name", name)
        properties = entry.get("Properties") or {}
        if not isinstance(properties, Mapping):
            self.fault(f"{where}.Properties", "must be an object", properties)
            return None
        values = self._properties(properties, f"{where}.Properties")
        if len(self.faults) > before:
            return None
        try:
            return QueueConfig(name=str(name), **values)
        except ConfigurationError as exc:
            spelled = {python: official for official, python in (_DURATIONS | _FLAGS).items()}
            spelled |= {"max_delivery_count": "MaxDeliveryCount"}
            for fault in exc.faults:
                place = f"{where}.Name" if fault.field == "name" else f"{where}.Properties.{spelled[fault.field]}"
                self.fault(place, fault.message, fault.given)
            return None

    def _properties(self, properties: Mapping[str, Any], where: str) -> dict[str, Any]:
        values: dict[str, Any] = {}
        known = {*_DURATIONS, *_FLAGS, *_NOT_MODELLED, "MaxDeliveryCount", "RequiresSession"}
        for key, given in properties.items():
            place = f"{where}.{key}"
            if key not in known:
                self.fault(place, f"is no queue property; known: {', '.join(sorted(known))}", given)
            elif key in _DURATIONS:
                try:
                    values[_DURATIONS[key]] = parse_duration(given)
                except ValueError as exc:
                    self.fault(place, str(exc), given)
            elif key in _NOT_MODELLED:
                if given:
                    self.fault(place, "forwarding is not modelled; leave it empty", given)
            elif key == "MaxDeliveryCount":
                if isinstance(given, bool) or not isinstance(given, int):
                    self.fault(place, "must be a whole number", given)
                values["max_delivery_count"] = given
            elif not isinstance(given, bool):
                self.fault(place, "must be true or false", given)
            elif key == "RequiresSession":
                if given:
                    self.fault(place, "sessions are not modelled; must be false", given)
            else:
                values[_FLAGS[key]] = given
        return values

"""How the transport reaches the service: connection string, identity, websockets."""

from __future__ import annotations

import base64
import json
import time
from datetime import timedelta

import pytest
from azure.core.credentials import AccessToken

from core.errors import ConfigurationError
from tests.integration.service_bus.conftest import QUEUE, QUICK, Bench, receive, task
from transports.base import Complete, Sent
from transports.service_bus import ServiceBusConnection, ServiceBusDispatcher


class Identity:
    """An Entra credential that makes up its tokens and counts them."""

    def __init__(self, seconds: float = 3600) -> None:
        self.seconds = seconds
        self.scopes: list[str] = []

    def get_token(self, *scopes: str, **_options: object) -> AccessToken:
        self.scopes += scopes
        expires = int(time.time() + self.seconds)
        claims = base64.urlsafe_b64encode(json.dumps({"exp": expires}).encode()).decode().rstrip("=")
        return AccessToken(f"e30.{claims}.c2ln", expires)


def with_identity(bench: Bench, identity: Identity) -> ServiceBusConnection:
    return ServiceBusConnection(
        fqdn=f"127.0.0.1:{bench.emulator.port}", credential=identity, options={**QUICK, "use_tls": False}
    )


def test_an_identity_sends_receives_renews_and_settles(bench: Bench) -> None:
    identity = Identity()
    connection = with_identity(bench, identity)
    dispatcher = ServiceBusDispatcher(connection, QUEUE)
    bench.opened.append(dispatcher)
    assert dispatcher.dispatch([task()]) == [Sent()]
    delivery = receive(bench.source(connection=connection))
    delivery.renew()
    delivery.settle(Complete())
    assert bench.emulator.message_count(QUEUE) == 0
    assert identity.scopes
    assert all(scope.startswith("https://servicebus.azure.net/") for scope in identity.scopes)


def test_a_token_that_ends_under_a_running_task_is_asked_for_again(bench: Bench) -> None:
    identity = Identity()
    bench.put()
    source = bench.source(connection=with_identity(bench, identity))
    delivery = receive(source)
    delivery.renew()
    asked = len(identity.scopes)
    bench.emulator.expire_tokens()
    delivery.renew()
    delivery.settle(Complete())
    assert len(identity.scopes) > asked
    assert source.status().details["locks_lost"] == 0


@pytest.mark.slow
def test_tokens_of_a_few_seconds_cost_nothing(bench: Bench) -> None:
    """The broker enforces what each token says; renewals and polls go on through many of them."""
    identity = Identity(seconds=4)
    bench.put()
    source = bench.source(connection=with_identity(bench, identity))
    delivery = receive(source)
    for _ in range(6):
        time.sleep(2)
        delivery.renew()
    delivery.settle(Complete())
    assert bench.emulator.message_count(QUEUE) == 0
    assert len(identity.scopes) >= 3


def test_websockets_carry_the_same(bench: Bench) -> None:
    connection = ServiceBusConnection(
        connection_string=bench.emulator.connection_string,
        websockets=True,
        options={**QUICK, "custom_endpoint_address": bench.emulator.custom_endpoint_address},
    )
    dispatcher = ServiceBusDispatcher(connection, QUEUE)
    bench.opened.append(dispatcher)
    assert dispatcher.dispatch([task()]) == [Sent()]
    source = bench.source(connection=connection)
    delivery = receive(source)
    delivery.renew()
    delivery.settle(Complete())
    assert source.receive(timedelta(seconds=0.2)) is None
    assert bench.emulator.message_count(QUEUE) == 0


@pytest.mark.parametrize("spelled", ["UseDevelopmentEmulator=True", "usedevelopmentemulator=TRUE"])
def test_the_emulator_is_honoured_however_it_is_spelled(bench: Bench, spelled: str) -> None:
    text = bench.emulator.connection_string.replace("UseDevelopmentEmulator=true", spelled)
    dispatcher = ServiceBusDispatcher(ServiceBusConnection(connection_string=text, options=QUICK), QUEUE)
    bench.opened.append(dispatcher)
    assert dispatcher.dispatch([task()]) == [Sent()]


def test_a_connection_hides_its_secret_and_names_what_is_missing(bench: Bench) -> None:
    assert "SAS_KEY_VALUE" not in repr(ServiceBusConnection(connection_string=bench.emulator.connection_string))
    with pytest.raises(ConfigurationError, match="SERVICE_BUS_FQDN"):
        ServiceBusConnection()
    with pytest.raises(ConfigurationError, match="has no Endpoint") as error:
        ServiceBusConnection(connection_string="SharedAccessKey=oops")
    assert "oops" not in str(error.value)

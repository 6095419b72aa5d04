"""Who may connect: signatures, tokens, their end."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from urllib.parse import quote_plus

import pytest
from azure.core.credentials import AccessToken
from azure.servicebus import ServiceBusClient, ServiceBusMessage
from azure.servicebus.exceptions import ServiceBusAuthenticationError, ServiceBusError

from testing.emulator import QueueCounts
from tests.integration.emulator.conftest import QUEUE, Bench, receive


def connect(bench: Bench, connection_string: str) -> ServiceBusClient:
    client = ServiceBusClient.from_connection_string(
        connection_string, retry_total=0, keep_alive=0, socket_timeout=0.02
    )
    bench.opened.append(client)
    return client


@pytest.mark.parametrize(
    ("part", "wrong"), [("SharedAccessKey=SAS_KEY_VALUE", "SharedAccessKey=OTHER"), ("RootManage", "NoSuch")]
)
def test_a_wrong_key_is_refused(bench: Bench, part: str, wrong: str) -> None:
    sender = connect(bench, bench.emulator.connection_string.replace(part, wrong)).get_queue_sender(QUEUE)
    bench.opened.append(sender)
    with pytest.raises(ServiceBusAuthenticationError):
        sender.send_messages(ServiceBusMessage("x"))
    assert bench.emulator.counts(QUEUE) == QueueCounts()


def test_expired_tokens_detach_links_and_a_new_token_brings_them_back(bench: Bench) -> None:
    bench.send("a", "b")
    receiver = bench.receiver()
    (message,) = receive(receiver)
    bench.emulator.expire_tokens()
    with pytest.raises(ServiceBusError):
        receiver.renew_message_lock(message)
    assert str(receive(receiver)[0]) == "b"
    receiver.renew_message_lock(message)
    receiver.complete_message(message)
    assert bench.emulator.counts(QUEUE) == QueueCounts(locked=1)


@pytest.mark.slow
def test_a_token_is_good_until_it_expires(bench: Bench) -> None:
    """The client is told that its token lasts; the broker enforces what the token says."""
    audience = quote_plus(f"sb://127.0.0.1:{bench.emulator.port}/{QUEUE}")
    expiry = int(time.time()) + 2
    key = bench.emulator.config.key.encode()
    signature = base64.b64encode(hmac.new(key, f"{audience}\n{expiry}".encode(), hashlib.sha256).digest())
    name = bench.emulator.config.key_name
    token = f"SharedAccessSignature sr={audience}&sig={quote_plus(signature)}&se={expiry}&skn={name}"
    head = f"Endpoint=sb://127.0.0.1:{bench.emulator.port};SharedAccessSignature={token};UseDevelopmentEmulator=true"
    receiver = connect(bench, head).get_queue_receiver(QUEUE)
    bench.opened.append(receiver)
    bench.send("a")
    assert str(receive(receiver)[0]) == "a"
    with pytest.raises(ServiceBusError):
        receiver.receive_messages(max_wait_time=6)
    assert time.time() >= expiry
    with pytest.raises(ServiceBusError):
        receiver.receive_messages(max_wait_time=6)


def test_an_entra_token_is_taken_as_it_is(bench: Bench) -> None:
    class Identity:
        def get_token(self, *_scopes: str, **_options: object) -> AccessToken:
            return AccessToken("an.opaque.token", int(time.time()) + 3600)

    name = f"127.0.0.1:{bench.emulator.port}"
    client = ServiceBusClient(name, Identity(), retry_total=0, keep_alive=0, socket_timeout=0.02, use_tls=False)
    sender = client.get_queue_sender(QUEUE)
    bench.opened += [client, sender]
    sender.send_messages(ServiceBusMessage("x"))
    assert bench.emulator.message_count(QUEUE) == 1

"""Who may call: rotating API keys, Entra tokens against a key server of our own, closed beyond loopback."""

from __future__ import annotations

import hmac
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from starlette.testclient import TestClient

from app.api.application import create_app
from app.composition import compose
from app.role import Role
from app.settings import OrchestrationMode, Settings
from core.errors import ConfigurationError
from tests.geoworker_process import MAIN, ROOT
from tests.http_support import Answer, Receiver, receivers

TENANT = "11111111-2222-3333-4444-555555555555"
AUDIENCE = "api://geoworker"
CLIENT = "aaaaaaaa-0000-0000-0000-000000000001"


@pytest.fixture(scope="module")
def signing_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def jwks(key: rsa.RSAPrivateKey, kid: str = "key-1") -> Answer:
    public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key()))
    document = {"keys": [{**public, "kid": kid, "use": "sig", "alg": "RS256"}]}
    return Answer(200, {"Content-Type": "application/json"}, json.dumps(document).encode())


@pytest.fixture
def authority(signing_key: rsa.RSAPrivateKey) -> Iterator[Receiver]:
    with receivers() as make:
        yield make(jwks(signing_key))


@pytest.fixture
def make_client(settings: Settings, database_url: str) -> Iterator[Callable[..., TestClient]]:
    made = []

    def make(**environment: str) -> TestClient:
        configured = Settings.from_env(
            environment,
            data_dir=settings.data_dir,
            docker_orchestration_mode=OrchestrationMode.HTTP_TRIGGER,
        )
        application = compose(configured, Role.WORKER, database_url=database_url)
        made.append(application)
        return TestClient(create_app(application, manage_lifecycle=False))

    yield make
    for application in made:
        application.lifecycle.drain()


@pytest.fixture
def entra(make_client: Callable[..., TestClient], authority: Receiver) -> TestClient:
    return make_client(
        ENTRA_AUTHORITY=f"http://127.0.0.1:{authority.port}",
        ENTRA_TENANT_ID=TENANT,
        ENTRA_AUDIENCE=AUDIENCE,
        ENTRA_ALLOWED_APP_IDS=f"{CLIENT},another",
        API_KEYS="a-key-1234567890",
    )


def token(key: rsa.RSAPrivateKey, authority: Receiver, *, kid: str = "key-1", **changes: Any) -> str:
    now = int(time.time())
    claims = {
        "aud": AUDIENCE,
        "iss": f"http://127.0.0.1:{authority.port}/{TENANT}/v2.0",
        "iat": now,
        "nbf": now,
        "exp": now + 3600,
        "azp": CLIENT,
        **changes,
    }
    kept = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(kept, key, algorithm="RS256", headers={"kid": kid})


def ask(client: TestClient, bearer: str) -> int:
    answer = client.get("/tasks", headers={"Authorization": f"Bearer {bearer}"})
    if answer.status_code != 200:
        assert answer.headers["content-type"] == "application/problem+json"
        assert bearer not in answer.text
    return answer.status_code


def test_tokens_of_the_tenant_for_us_from_allowed_clients_are_let_in(
    entra: TestClient, authority: Receiver, signing_key: rsa.RSAPrivateKey
) -> None:
    assert ask(entra, token(signing_key, authority)) == 200
    v1 = token(signing_key, authority, iss=f"https://sts.windows.net/{TENANT}/", azp=None, appid=CLIENT)
    assert ask(entra, v1) == 200
    assert entra.get("/tasks", headers={"x-api-key": "a-key-1234567890"}).status_code == 200
    assert len(authority.got) == 1  # the keys are asked for once
    assert authority.got[0].path == f"/{TENANT}/discovery/v2.0/keys"


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "api://another"},
        {"aud": None},
        {"iss": "https://login.microsoftonline.com/another/v2.0"},
        {"iss": None},
        {"exp": int(time.time()) - 120},
        {"exp": None},
        {"nbf": int(time.time()) + 86_400},
    ],
)
def test_other_tokens_are_refused(
    changes: dict[str, Any], entra: TestClient, authority: Receiver, signing_key: rsa.RSAPrivateKey
) -> None:
    assert ask(entra, token(signing_key, authority, **changes)) == 401


@pytest.mark.parametrize("client", ["somebody-else", None])
def test_a_client_that_may_not_call_is_forbidden(
    client: str | None, entra: TestClient, authority: Receiver, signing_key: rsa.RSAPrivateKey
) -> None:
    assert ask(entra, token(signing_key, authority, azp=client)) == 403


def test_forged_tokens_are_refused(entra: TestClient, authority: Receiver, signing_key: rsa.RSAPrivateKey) -> None:
    forger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    good = token(signing_key, authority)
    head, body, signature = good.split(".")
    unsigned = jwt.encode(jwt.decode(good, options={"verify_signature": False}), "", algorithm="none")
    by_secret = jwt.encode(
        jwt.decode(good, options={"verify_signature": False}), "x" * 32, algorithm="HS256", headers={"kid": "key-1"}
    )
    for forged in (
        token(forger, authority),
        token(forger, authority, kid="unknown"),
        unsigned,
        by_secret,
        f"{head}.{body}.",
        f"{head}.{body}x.{signature}",
        "no token at all",
    ):
        assert ask(entra, forged) == 401
    assert ask(entra, good) == 200
    assert len(authority.got) <= 2  # unknown key ids cannot be used to flood the tenant


def test_an_authority_that_is_away_is_503_and_not_401(
    make_client: Callable[..., TestClient], signing_key: rsa.RSAPrivateKey, authority: Receiver
) -> None:
    with receivers() as make:
        broken = make(500)
        client = make_client(
            ENTRA_AUTHORITY=f"http://127.0.0.1:{broken.port}", ENTRA_TENANT_ID=TENANT, ENTRA_AUDIENCE=AUDIENCE
        )
        answer = client.get("/tasks", headers={"Authorization": f"Bearer {token(signing_key, authority)}"})
    assert answer.status_code == 503
    assert answer.headers["retry-after"].isdigit()


def test_any_of_several_keys_is_let_in_and_every_one_is_compared_in_constant_time(
    make_client: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[int] = []
    compare = hmac.compare_digest

    def counted(one: bytes, other: bytes) -> bool:
        compared.append(len(one))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", counted)
    client = make_client(API_KEYS="old-key-1234, new-key-5678")
    for headers in (
        {"x-api-key": "old-key-1234"},
        {"x-api-key": "new-key-5678"},
        {"x-functions-key": "new-key-5678"},
        {"Authorization": "ApiKey new-key-5678"},
    ):
        compared.clear()
        assert client.get("/tasks", headers=headers).status_code == 200
        assert compared == [32, 32]  # both, over digests of one length
    for headers in ({}, {"x-api-key": ""}, {"x-api-key": "old-key"}, {"Authorization": "Bearer old-key-1234"}):
        answer = client.get("/tasks", headers=headers)
        assert answer.status_code == 401
        assert "ApiKey" in answer.headers["www-authenticate"]
        assert "old-key" not in answer.text


@pytest.mark.parametrize("path", ["/livez", "/health", "/readyz"])
def test_probes_need_no_credentials(path: str, make_client: Callable[..., TestClient]) -> None:
    assert make_client(API_KEYS="a-key-1234").get(path).status_code in (200, 503)


def test_the_openapi_document_names_the_ways_in(entra: TestClient) -> None:
    document = entra.get("/openapi.json", headers={"x-api-key": "a-key-1234567890"}).json()
    assert document["security"] == [{"apiKey": []}, {"entra": []}]


def test_a_tenant_without_an_audience_is_refused_at_the_start(make_client: Callable[..., TestClient]) -> None:
    with pytest.raises(ConfigurationError, match="ENTRA_AUDIENCE"):
        make_client(ENTRA_TENANT_ID=TENANT)


def test_beyond_loopback_the_worker_does_not_start_without_a_way_to_tell_callers_apart() -> None:
    environment = {
        "PATH": "/usr/bin:/bin",
        "DOCKER_ORCHESTRATION_MODE": "http_trigger",
        "DATABASE_URL": "postgresql://x",
    }
    done = subprocess.run(
        [sys.executable, "-c", MAIN, "worker", "--host", "0.0.0.0", "--port", "0"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "API_KEYS" in done.stderr

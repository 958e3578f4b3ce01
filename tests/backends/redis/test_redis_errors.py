"""What the driver raises and the server refuses, in our words."""

import inspect
import logging

import pytest
from msgspec.structs import replace
from redis import exceptions
from taskq_redis import connect
from taskq_redis.faults import DRIVER_ERRORS, LASTING, PASSING, SAID, translated
from taskq_redis.standing import Standing, check, weakest

from taskq.errors import BrokerRejected, BrokerUnavailable, ConfigError
from taskq.job import Job
from tests.backends.redis.deployment import Tenant, command
from tests.servers.process import Process

CLASSES = [kind for _, kind in inspect.getmembers(exceptions, inspect.isclass) if issubclass(kind, Exception)]


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_class_of_the_driver_has_its_error_and_its_remedy(kind: type[Exception]) -> None:
    assert (kind in PASSING) != (kind in LASTING)
    assert issubclass(kind, DRIVER_ERRORS)
    error = Exception.__new__(kind)
    found = translated(error, "redis at here")
    assert type(found) is (BrokerUnavailable if kind in PASSING else BrokerRejected)
    assert found.__cause__ is error


@pytest.mark.parametrize("word", SAID)
def test_an_error_without_a_class_is_known_by_its_first_word(word: str) -> None:
    kind, remedy = SAID[word]
    found = translated(exceptions.ResponseError(f"{word} and so on"), "redis")
    assert type(found) is kind
    assert remedy in str(found)


def test_an_address_that_does_not_answer_is_unavailable() -> None:
    assert type(translated(ConnectionRefusedError("no"), "redis")) is BrokerUnavailable


@pytest.mark.parametrize(
    "url",
    [
        "redis+carrier://localhost",
        "redis+sentinel://localhost",
        "redis://localhost?patience=never",
        "redis://localhost?unheard_of=1",
        "redis://localhost?sentinel_password=secret",
        "redis+sentinel://localhost/main?sentinel_unheard_of=1",
        "redis://localhost?patience=0",
        "redis://localhost?namespace=a:b",
        "redis://localhost:what",
        "unix://",
    ],
)
@pytest.mark.anyio
async def test_a_url_that_cannot_be_used_says_how_to_write_one(url: str) -> None:
    with pytest.raises(ConfigError):
        async with connect(url):
            pass


@pytest.mark.anyio
async def test_a_wrong_password_is_rejected_with_a_remedy(redis82: Process) -> None:
    tenant = Tenant([redis82], lambda user: f"redis://{user}127.0.0.1:{redis82.port}")
    with pytest.raises(BrokerRejected, match="put them into the URL"):
        async with connect(tenant.url.replace("secret", "guess")):
            pass


@pytest.mark.anyio
async def test_nobody_at_the_address_is_unavailable() -> None:
    with pytest.raises(BrokerUnavailable):
        async with connect("redis://127.0.0.1:1"):
            pass


@pytest.mark.anyio
async def test_a_key_of_somebody_else_is_rejected_with_a_remedy(redis82: Process) -> None:
    tenant = Tenant([redis82], lambda user: f"redis://{user}127.0.0.1:{redis82.port}")
    command(redis82, "SET", f"{{{tenant.namespace}:q}}:row", "theirs")
    async with tenant.open() as backend:
        with pytest.raises(BrokerRejected, match="another namespace"):
            await backend.broker.enqueue([Job(id="a", task="t", body=b"", queue="q")])


@pytest.mark.anyio
async def test_text_that_is_not_unicode_is_refused(redis82: Process) -> None:
    text = "half a pair: \ud800"
    tenant = Tenant([redis82], lambda user: f"redis://{user}127.0.0.1:{redis82.port}")
    async with tenant.open() as backend:
        assert backend.store is not None
        assert backend.hints is not None
        for field in ("id", "queue", "unique", "group", "tenant", "task"):
            job = replace(Job(id="a", task="t", body=b"", queue="q"), **{field: text})
            (answer,) = await backend.broker.enqueue([job])
            assert isinstance(answer.error, BrokerRejected), field
        for call in (
            backend.broker.fetch([text], 1, lease=1, wait=0),
            backend.store.get(text),
            backend.store.add("key", [text]),
            backend.hints.publish("news", text),
        ):
            with pytest.raises(BrokerRejected):
                await call


SOUND = Standing(version=(7, 0, 15), clustered=False, appendfsync="always", eviction="noeviction")


def test_a_server_that_is_too_old_is_refused() -> None:
    old = Standing(version=(6, 2, 14), clustered=False, appendfsync="always", eviction="noeviction")
    with pytest.raises(BrokerRejected, match=r"this is Redis 6\.2\.14"):
        check(old, "redis")
    check(SOUND, "redis")


@pytest.mark.parametrize("eviction", ["allkeys-lru", "volatile-ttl"])
def test_a_server_that_may_throw_things_away_is_told_of(eviction: str, caplog: pytest.LogCaptureFixture) -> None:
    evicting = Standing(version=(8, 2), clustered=False, appendfsync="off", eviction=eviction)
    with caplog.at_level(logging.WARNING, "taskq.redis"):
        check(evicting, "redis")
    assert "set noeviction" in caplog.text
    weak = weakest([SOUND, evicting])
    assert weak == Standing(version=(7, 0, 15), clustered=False, appendfsync="off", eviction=eviction)
    assert (SOUND.durability, weak.durability) == ("disk", "process")

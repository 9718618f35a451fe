"""A name server that never answers holds nobody for longer than a limit, and no other name at all.

Run by: pytest. The C library's resolver is real, and asks a socket on loopback. Must not import: backend, groundcrew.
Example: pytest tests/unit/test_dns.py
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import httpcore
import httpx
import pytest
import redis

from contract import dns
from contract.broker import connect_redis, make_celery, send
from contract.dns import MOST_LOOK_UPS, PLACES, look_up
from contract.errors import BrokerUnavailable, ImageUnavailable, LabelStudioUnreachable
from contract.finetune import new_finetune
from contract.jobs import Prediction
from contract.settings import read_settings
from tests.fakes.silent_dns import SilentDns
from worker.addresses import Fetcher
from worker.connections import LimitedNetwork, limit_look_ups
from worker.labelstudio import LabelStudio

LIMIT_S = 0.5
PATIENCE_S = 60.0  #: for what another thread is about to do
RESOLVER_GIVES_UP_S = 10.0  #: glibc asks twice and waits five seconds each time
EMPTY = Prediction(task_id=1, model_version="v", score=0.0, result=[])


@pytest.fixture
def silent_dns(monkeypatch: pytest.MonkeyPatch) -> Iterator[SilentDns]:
    with SilentDns() as server:
        monkeypatch.setattr(socket, "getaddrinfo", server.getaddrinfo)
        yield server


def test_a_name_server_that_hangs_holds_a_download_no_longer_than_its_limit(silent_dns: SilentDns) -> None:
    # given / when
    fetcher = Fetcher(read_settings({"IMAGE_TIMEOUT_S": str(LIMIT_S)}), dict)
    began_s = time.monotonic()
    with pytest.raises(ImageUnavailable, match=r"DNS gave no answer for images\.example\.org within"):
        fetcher.fetch("https://images.example.org/a.png")

    # then it was asked, and the download was over long before the resolver gives up
    assert time.monotonic() - began_s < RESOLVER_GIVES_UP_S / 2
    assert b"\6images\7example\3org" in silent_dns.wait_for_question(PATIENCE_S)


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns, "LONGEST_LOOK_UP_S", LIMIT_S)


def test_a_name_server_that_hangs_holds_the_writer_no_longer_than_its_limit(silent_dns: SilentDns, limit: None) -> None:
    # given / when
    known = {"LABEL_STUDIO_URL": "http://studio.example.org:8080", "LABEL_STUDIO_API_KEY": "a-legacy-token"}
    label_studio = LabelStudio(read_settings(known))
    label_studio.prepare()
    for ask in (lambda: label_studio.store(1, [EMPTY, EMPTY]), lambda: label_studio.versions_of(1)):
        began_s = time.monotonic()
        with pytest.raises(LabelStudioUnreachable) as raised:
            ask()

        # then it is an outage, which is tried again
        assert raised.value.retry
        assert time.monotonic() - began_s < RESOLVER_GIVES_UP_S / 2
    assert b"\6studio\7example\3org" in silent_dns.wait_for_question(PATIENCE_S)


REDIS_URLS = ["redis://redis.example.org", "rediss://redis.example.org", "sentinel://redis.example.org/crew"]


@pytest.mark.parametrize("url", REDIS_URLS)
def test_a_name_server_that_hangs_holds_no_client_of_redis_longer_than_its_limit(
    silent_dns: SilentDns, url: str
) -> None:
    client = connect_redis(read_settings({"REDIS_URL": url}), timeout_s=LIMIT_S)
    began_s = time.monotonic()
    with pytest.raises(redis.ConnectionError, match=r"DNS gave no answer within 0\.5 seconds|No master found"):
        client.ping()
    assert time.monotonic() - began_s < RESOLVER_GIVES_UP_S / 2
    assert b"\5redis\7example\3org" in silent_dns.wait_for_question(PATIENCE_S)


@pytest.mark.parametrize("url", REDIS_URLS)
def test_a_name_server_that_hangs_holds_nobody_who_sends_jobs(silent_dns: SilentDns, url: str) -> None:
    app = make_celery(read_settings({"REDIS_URL": url}), publish_only=True)
    began_s = time.monotonic()
    with pytest.raises(BrokerUnavailable):
        send(app, [new_finetune(1, "cli")], shards=1)
    assert time.monotonic() - began_s < RESOLVER_GIVES_UP_S / 2


@pytest.mark.parametrize("url", REDIS_URLS)
def test_a_name_server_that_hangs_holds_no_worker_longer_than_its_limit(
    silent_dns: SilentDns, limit: None, url: str
) -> None:
    app = make_celery(read_settings({"REDIS_URL": url}))
    began_s = time.monotonic()
    with app.connection_for_read() as connection, pytest.raises(redis.ConnectionError):
        connection.connect()
    assert time.monotonic() - began_s < RESOLVER_GIVES_UP_S / 2
    assert b"\5redis\7example\3org" in silent_dns.wait_for_question(PATIENCE_S)


def test_the_master_that_sentinels_name_is_looked_up_within_the_limit(silent_dns: SilentDns) -> None:
    client = connect_redis(read_settings({"REDIS_URL": "sentinel://127.0.0.1/crew"}), timeout_s=LIMIT_S)
    connection = client.connection_pool.make_connection()
    began_s = time.monotonic()
    with pytest.raises(redis.ConnectionError, match="DNS gave no answer"):
        connection.connect_to(("redis.example.org", 6379))
    assert time.monotonic() - began_s < RESOLVER_GIVES_UP_S / 2


def test_a_proxy_of_the_environment_has_the_same_limit(
    silent_dns: SilentDns, limit: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example.org:3128")
    began_s = time.monotonic()
    with limit_look_ups(httpx.Client(timeout=60.0)) as client, pytest.raises(httpx.ConnectTimeout, match="DNS gave no"):
        client.get("http://hooks.example.org/")
    assert time.monotonic() - began_s < RESOLVER_GIVES_UP_S / 2
    assert b"\5proxy\7example\3org" in silent_dns.wait_for_question(PATIENCE_S)


def test_a_name_that_does_not_exist_is_an_error_as_ever() -> None:
    with pytest.raises(httpcore.ConnectError, match="has no address"):
        LimitedNetwork().connect_tcp("a" * 70, 80, PATIENCE_S)


def test_other_names_are_found_while_some_hang(silent_dns: SilentDns) -> None:
    # given as many hanging look-ups as a worker has threads
    threads = [threading.Thread(target=give_up, args=(f"image{n}.example.org",)) for n in range(20)]
    for thread in threads:
        thread.start()
    silent_dns.wait_for_question(PATIENCE_S)

    # when / then
    assert "127.0.0.1" in look_up("localhost", 80, RESOLVER_GIVES_UP_S / 2)
    for thread in threads:
        thread.join()


def give_up(host: str, places: threading.Semaphore = PLACES) -> None:
    with pytest.raises(TimeoutError):
        look_up(host, 443, LIMIT_S, places)


def test_when_too_many_hang_the_next_one_is_not_held_either(silent_dns: SilentDns) -> None:
    one_place = threading.BoundedSemaphore(1)
    began_s = time.monotonic()
    give_up("first.example.org", one_place)
    give_up("second.example.org", one_place)
    assert time.monotonic() - began_s < RESOLVER_GIVES_UP_S / 2


def test_a_look_up_that_is_over_makes_room_for_the_next() -> None:
    for _ in range(MOST_LOOK_UPS + 1):
        assert look_up("127.0.0.1", 80, PATIENCE_S) == ["127.0.0.1"]
    for _ in range(MOST_LOOK_UPS + 1):
        with pytest.raises(UnicodeError):
            look_up("a" * 70, 80, PATIENCE_S)

"""Redis behind TLS and Sentinel, through a failover: our own client, the API's sends and a real writer process."""

import socket
import sys

import pytest
import redis

from contract.broker import connect_redis, make_celery, send
from contract.errors import BrokerUnavailable, SettingsError, UnknownJob
from contract.finetune import new_finetune
from contract.heartbeats import alive
from contract.jobs import FINETUNE_QUEUE, ExpandJob, NewTask
from contract.sentinel import SentinelAddress
from contract.settings import read_settings
from contract.status import JobRecords
from groundcrew.child import Child, bare_environment, free_port
from tests.services.machine import REPOSITORY
from tests.services.redis_servers import RedisServer, make_certificates, wait_for_replica
from tests.services.waiting import wait_until


@pytest.fixture
def start_writer(tmp_path):
    """Starts `python -m worker write` on a Redis; returns its settings once it is alive."""
    children = []

    def start(url):
        settings = read_settings({"REDIS_URL": url})
        child = Child.start([sys.executable, "-m", "worker", "write"], env=bare_environment({"REDIS_URL": url}),
                            cwd=REPOSITORY, log_path=tmp_path / "writer.log")  # fmt: skip
        children.append(child)
        wait_until(lambda: bool(alive(connect_redis(settings))), "the writer", child.log_tail)
        return settings

    yield start
    for child in children:
        child.stop()


def send_and_wait(settings, task):
    """A job goes to the writer, and what it makes of it comes back: a record and a waiting message."""
    app, client = make_celery(settings, publish_only=True), connect_redis(settings)
    tasks = (NewTask(task_id=task, image="i"),)
    job = ExpandJob(project_id=1, tasks=tasks, config_id="c", model="m", model_version="v")
    wait_until(lambda: is_sent(app, job, settings), "the broker to take a job")
    (expected,) = job.predict_jobs()

    def is_queued():
        try:
            return JobRecords(client, failed_memory_s=0).get(expected.id)["state"] == "queued"
        except (UnknownJob, redis.RedisError):  # not yet, or the master is just moving
            return False

    wait_until(is_queued, "the writer to make predict jobs of it")


def is_sent(app, job, settings):
    try:
        send(app, [job], shards=settings.queue_shards)
    except BrokerUnavailable:
        return False
    return True


def test_everything_works_over_tls_with_a_password(tmp_path, start_writer):
    files = make_certificates(tmp_path)
    with tls_server(tmp_path / "redis", files) as server:
        url = f"rediss://:secret@127.0.0.1:{enable_tls(server)}/0?ssl_cert_reqs=required&ssl_ca_certs={files.authority}"
        send_and_wait(start_writer(url), task=1)


def test_a_name_with_several_addresses_is_tried_in_turn_and_the_certificate_is_for_the_name(tmp_path, monkeypatch):
    # given a name whose first address nobody listens on
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **more: [
        row for address in ADDRESSES.get(host, [host]) for row in real(address, *rest, **more)])  # fmt: skip
    files = make_certificates(tmp_path, "DNS:redis.example.org")
    with tls_server(tmp_path / "redis", files) as server:
        port, ask = enable_tls(server), f"ssl_cert_reqs=required&ssl_ca_certs={files.authority}"
        settings = read_settings({"REDIS_URL": f"rediss://:secret@redis.example.org:{port}/0?{ask}"})
        # when / then
        assert connect_redis(settings).ping()
        send(make_celery(settings, publish_only=True), [new_finetune(1, "cli")], shards=1)
        assert connect_redis(settings).llen(FINETUNE_QUEUE) == 1
        # and an address is not what it is for
        by_address = read_settings({"REDIS_URL": f"rediss://:secret@127.0.0.1:{port}/0?{ask}"})
        with pytest.raises(redis.ConnectionError, match="certificate verify failed"):
            connect_redis(by_address).ping()


ADDRESSES = {"redis.example.org": ["127.0.0.2", "127.0.0.1"]}


def tls_server(folder, files):
    options = ["--tls-cert-file", files.certificate, "--tls-key-file", files.key, "--tls-ca-cert-file", files.authority,
               "--tls-auth-clients", "no", "--requirepass", "secret"]  # fmt: skip
    return RedisServer.start(folder, *map(str, options))


def enable_tls(server):
    """The port that it was started with stays plain; this second one speaks TLS."""
    port = free_port()
    with redis.Redis(port=server.port, password="secret") as client:
        wait_until(lambda: answers(client), "Redis")
        client.config_set("tls-port", port)
    return port


def answers(client):
    try:
        return client.ping()
    except redis.ConnectionError:
        return False


def test_a_certificate_of_somebody_else_is_refused(tmp_path):
    files, other = make_certificates(tmp_path), tmp_path / "other"
    other.mkdir()
    with tls_server(tmp_path / "redis", files) as server:
        wrong = make_certificates(other).authority
        url = f"rediss://:secret@127.0.0.1:{enable_tls(server)}/0?ssl_ca_certs={wrong}"
        settings = read_settings({"REDIS_URL": url})
        with pytest.raises(redis.ConnectionError, match="certificate verify failed"):
            connect_redis(settings).ping()


def test_the_crew_follows_a_master_that_moved(tmp_path, start_writer):
    # given a master, a replica and a sentinel
    password = ["--requirepass", "secret", "--masterauth", "secret"]
    with (
        RedisServer.start(tmp_path / "a", *password) as master,
        RedisServer.start(tmp_path / "b", *password, "--replicaof", f"127.0.0.1 {master.port}") as replica,
    ):
        wait_for_replica(replica.port, "secret")
        with RedisServer.start_sentinel(tmp_path / "s", master.port, "secret") as sentinel:
            watcher = redis.Redis(port=sentinel.port)
            wait_until(lambda: answers(watcher), "the sentinel")
            settings = start_writer(f"sentinel://:secret@127.0.0.1:{sentinel.port}/crew/0")
            send_and_wait(settings, task=1)
            wait_until(lambda: watcher.sentinel_master("crew")["num-slaves"] == 1, "the sentinel to see the replica")

            # when the master is killed
            master.kill()
            wait_until(lambda: watcher.sentinel_get_master_addr_by_name("crew")[1] == replica.port, "the failover")

            # then the API's next job reaches the writer by way of the new one, and nothing was restarted
            send_and_wait(settings, task=2)


def test_an_address_of_sentinels_is_read_as_a_whole():
    found = SentinelAddress.parse("sentinel://:p%40ss@a:1,b/crew/3?sentinel_password=other")
    assert found == ((("a", 1), ("b", 26379)), "crew", 3, "p@ss", "other")
    assert found.kombu_url == "sentinel://:p%40ss@a:1/3;sentinel://:p%40ss@b:26379/3"


@pytest.mark.parametrize("url", ["sentinel://a:1", "sentinel:///crew/0", "sentinel://a:x/crew", "sentinel://a/crew/x"])
def test_an_incomplete_address_says_what_it_must_look_like(url):
    with pytest.raises(SettingsError, match="REDIS_URL: must look like sentinel://"):
        read_settings({"REDIS_URL": url})

"""Our Redis transport against a real Redis: taking, recording and acknowledging together, and giving back.

Called by: pytest. Must not import: backend, worker, torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import redis
from kombu import Connection, Queue
from kombu.asynchronous.hub import Hub

from contract.broker import UNACKED_INDEX_KEY, UNACKED_KEY, make_celery
from contract.envelopes import enclose
from contract.jobs import PredictJob
from contract.redis_transport import Channel
from contract.settings import read_settings

SHARDS = 16


def message_of(project: int, task: int) -> tuple[str, str, str]:
    """(queue, delivery tag, message); the address looks like a delivery tag, to mislead whoever searches for one."""
    job = PredictJob(
        project_id=project, task_id=task, image='x"delivery_tag":"wrong"', config_id="c", model="m", model_version="v",
        id=f"p{project}-t{task}",
    )  # fmt: skip
    queue, message = enclose(job, SHARDS)
    return queue, json.loads(message)["properties"]["delivery_tag"], message


def send(client: redis.Redis, project: int, tasks: int) -> tuple[str, list[str]]:
    """Queue and delivery tags of so many messages of a project."""
    sent = [message_of(project, task) for task in range(tasks)]
    for queue, _, message in sent:
        client.lpush(queue, message)
    return sent[0][0], [tag for _, tag, _ in sent]


@pytest.fixture
def connection(redis_url: str) -> Iterator[Connection]:
    with make_celery(read_settings({"REDIS_URL": redis_url})).connection_for_read() as connection:
        yield connection


def consume(connection: Connection, queues: list[str], prefetch: int) -> tuple[Channel, list[str]]:
    """A channel that consumes, and the delivery tags of what came through it."""
    channel, came = connection.channel(), []
    channel.qos.prefetch_count = prefetch
    consumer = connection.Consumer(
        [Queue(name) for name in queues], channel=channel, on_message=lambda message: came.append(message.delivery_tag)
    )
    consumer.consume()
    return channel, came


def unacked(client: redis.Redis) -> set[str]:
    assert set(client.hkeys(UNACKED_KEY)) == set(client.zrange(UNACKED_INDEX_KEY, 0, -1))
    return set(client.hkeys(UNACKED_KEY))


def test_given_waiting_messages_when_a_loop_comes_round_then_all_free_slots_are_filled_and_recorded(client, connection):
    queue, tags = send(client, 1, 5)
    channel, came = consume(connection, [queue], prefetch=3)

    channel.come_round()

    assert came == tags[:3]
    assert unacked(client) == set(tags[:3])
    assert client.llen(queue) == 2


def test_given_two_projects_when_messages_are_taken_then_they_come_in_turn(client, connection):
    one, ones = send(client, 1, 3)
    two, twos = send(client, 2, 3)
    channel, came = consume(connection, [one, two], prefetch=3)

    channel.come_round()
    assert came == [ones[0], twos[0], ones[1]]

    channel.basic_ack(came[0])
    channel.come_round()
    assert came[3:] == [twos[1]], "the queue that was served longest ago comes first"


def test_given_many_done_messages_when_the_loop_comes_round_then_none_is_recorded_any_more(client, connection):
    queue, _ = send(client, 1, 2500)
    channel, came = consume(connection, [queue], prefetch=2500)
    channel.come_round()
    assert len(unacked(client)) == 2500

    for tag in came:
        channel.basic_ack(tag)
    channel.come_round()

    assert unacked(client) == set()


def test_given_no_loop_when_a_message_is_acknowledged_then_redis_hears_of_it_at_once(client, connection):
    queue, tags = send(client, 1, 2)
    channel, came = consume(connection, [queue], prefetch=2)
    while len(came) < 2:
        connection.drain_events(timeout=10)
    assert unacked(client) == set(tags)

    channel.basic_ack(tags[0])

    assert unacked(client) == {tags[1]}


def test_given_a_loop_when_a_message_is_acknowledged_then_the_loop_is_woken(client, connection):
    queue, tags = send(client, 1, 1)
    channel, came = consume(connection, [queue], prefetch=1)
    hub = Hub()
    connection.transport.register_with_event_loop(connection.connection, hub)
    channel.come_round()

    channel.basic_ack(came[0])
    assert unacked(client) == set(tags), "it waits for others"
    assert hub._ready, "but not for long"
    channel.come_round()

    assert unacked(client) == set()
    hub.close()


def test_given_messages_in_hand_when_the_channel_closes_then_only_those_not_done_go_back(client, connection):
    queue, tags = send(client, 1, 3)
    channel, came = consume(connection, [queue], prefetch=3)
    channel.come_round()

    channel.basic_ack(came[1])
    channel.close()

    assert unacked(client) == set()
    waiting = [json.loads(message) for message in client.lrange(queue, 0, -1)]
    assert {message["properties"]["delivery_tag"] for message in waiting} == {tags[0], tags[2]}
    assert all(message["headers"]["redelivered"] for message in waiting)


def test_given_redis_away_when_done_messages_cannot_be_told_then_they_are_told_later(client, connection):
    queue, _ = send(client, 1, 1)
    channel, came = consume(connection, [queue], prefetch=1)
    channel.come_round()
    channel.basic_ack(came[0])

    taking, channel._take = channel._take, _away
    with pytest.raises(redis.ConnectionError):
        channel.come_round()
    channel._take = taking
    channel.come_round()

    assert unacked(client) == set()


def _away(**_: object) -> list[bytes]:
    raise redis.ConnectionError

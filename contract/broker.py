"""The Celery app that both sides share, and the one way to send a job.

Called by: backend.dispatch, worker.app, worker.tasks, groundcrew. Must not import: worker (tasks have names).
Redis is the broker only: job records (status.py) and results (results.py) say more than a result backend would.
Example: `send(make_celery(settings), job, shards=settings.queue_shards)`
"""

from __future__ import annotations

from collections.abc import Sequence

import redis
from celery import Celery
from kombu.exceptions import OperationalError
from kombu.messaging import Producer
from kombu.transport import TRANSPORT_ALIASES

from contract.envelopes import Envelope, enclose
from contract.errors import BrokerUnavailable
from contract.jobs import EXPAND_QUEUE, FINETUNE_QUEUE, INTERACTIVE_QUEUE, WRITE_QUEUE, Job, bulk_queues
from contract.redis_connections import LIMITED
from contract.sentinel import SCHEME as SENTINEL_SCHEME
from contract.sentinel import SentinelAddress
from contract.settings import Settings

TRANSPORT_ALIASES.update(dict.fromkeys(("redis", "rediss"), "contract.redis_transport:Transport"))
TRANSPORT_ALIASES["sentinel"] = "contract.redis_transport:SentinelTransport"

SOCKET_TIMEOUT_S = 2.0  #: Label Studio waits 1 s for /health and 3 s for /setup
UNACKED_KEY = "unacked"  #: kombu's hash of messages that some process holds, by delivery tag
UNACKED_INDEX_KEY = "unacked_index"  #: kombu's sorted set of their tags, by when they were taken
LONGEST_BLOCK_S = 100.0  #: a blocking read may last as long as Label Studio waits


DEFAULT_REDIS_URL = "redis://127.0.0.1:6379/0"


_ONE_RECONNECT = {"max_retries": 1, "interval_start": 0, "interval_step": 0}  #: a restarted Redis goes unnoticed
_PATIENT = {"max_retries": 30, "interval_start": 0, "interval_step": 0.5, "interval_max": 2}


def redis_url(settings: Settings) -> str:
    """REDIS_URL, or Redis's usual place on this machine."""
    return settings.redis_url or DEFAULT_REDIS_URL


def celery_url(settings: Settings) -> str:
    """The same address for kombu, which names Unix sockets differently from redis-py."""
    url = redis_url(settings)
    if url.startswith(SENTINEL_SCHEME):
        return SentinelAddress.parse(url).kombu_url
    return url.replace("unix://", "redis+socket://", 1) if url.startswith("unix://") else url


def make_celery(settings: Settings, *, publish_only: bool = False) -> Celery:
    """The Celery app. `publish_only` makes a Redis that is away an error at once instead of a wait."""
    app = Celery("groundcrew", broker=celery_url(settings), set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        task_acks_late=True,
        worker_prefetch_multiplier=1,
        worker_send_task_events=False,  # flower asks for events when it runs; unasked they took 23 % of a worker's time
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options=_transport_options(settings, publish_only),
        task_publish_retry_policy=_ONE_RECONNECT if publish_only else _PATIENT,
        task_default_queue=EXPAND_QUEUE,
        task_create_missing_queues=True,
    )
    return app


def _transport_options(settings: Settings, publish_only: bool) -> dict[str, object]:
    options: dict[str, object] = {
        "visibility_timeout": settings.visibility_timeout_s,
        # kombu looks for lost messages every interval x throttle seconds; its defaults make that 100 s
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
        "unacked_mutex_expire": 10,
        # projects are served in turn; one key a queue, since urgency has a queue of its own
        "queue_order_strategy": "round_robin",
        "priority_steps": [0],
        "health_check_interval": 25,
        "socket_keepalive": True,
    }
    timeouts: dict[str, float] = {}
    if publish_only:
        timeouts = {"socket_timeout": SOCKET_TIMEOUT_S, "socket_connect_timeout": SOCKET_TIMEOUT_S}
        options |= {**timeouts, "max_retries": 0}
    if redis_url(settings).startswith(SENTINEL_SCHEME):
        address = SentinelAddress.parse(redis_url(settings))
        options |= {"master_name": address.master, "sentinel_kwargs": {**timeouts, **address.sentinel_options}}
    return options


def connect_redis(settings: Settings, *, timeout_s: float = SOCKET_TIMEOUT_S) -> redis.Redis:
    """A redis-py client that answers or fails within timeout_s seconds (blocking reads bring their own limit)."""
    url = redis_url(settings)
    timeouts = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
    if url.startswith(SENTINEL_SCHEME):
        address = SentinelAddress.parse(url)
        return address.connect(health_check_interval=25, decode_responses=True, socket_keepalive=True, **timeouts)
    kind = LIMITED.get(url.partition("://")[0])
    tcp_only = {"socket_keepalive": True, "connection_class": kind} if kind else {}
    return redis.Redis.from_url(url, health_check_interval=25, decode_responses=True, **timeouts, **tcp_only)


def send(app: Celery, jobs: Sequence[Job], *, shards: int) -> None:
    """Put jobs on their queues, in order and in one round trip. Raises BrokerUnavailable."""
    if not jobs:
        return
    try:
        with app.producer_or_acquire() as producer:
            push = producer.connection.ensure(producer, _push, **app.conf.task_publish_retry_policy)
            push(producer, [enclose(job, shards) for job in jobs])
    except (OperationalError, redis.RedisError, ConnectionError) as error:
        raise BrokerUnavailable from error


def _push(producer: Producer, envelopes: Sequence[Envelope]) -> None:
    with producer.channel.conn_or_acquire() as client, client.pipeline(transaction=False) as pipe:
        for queue, message in envelopes:
            pipe.lpush(queue, message)
        pipe.execute()


def all_queues(shards: int) -> list[str]:
    return [INTERACTIVE_QUEUE, *bulk_queues(shards), WRITE_QUEUE, EXPAND_QUEUE, FINETUNE_QUEUE]


def queue_depths(client: redis.Redis, shards: int) -> dict[str, int]:
    """Waiting messages of each queue."""
    names = all_queues(shards)
    with client.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.llen(name)
        return dict(zip(names, pipe.execute(), strict=True))

"""Outgoing webhooks against a receiver that verifies, fails and hangs, with a real Redis."""

import base64
import socket
import threading
import time

import pytest

from contract import dns
from contract.delayed import KEY, Delayed
from contract.errors import GroundcrewError
from contract.finetune import FinetuneRecords, new_finetune
from contract.jobs import NotifyJob, PredictJob
from contract.projects import ProjectFacts, Projects
from contract.registry import Registry
from contract.settings import read_settings
from contract.status import JobRecords
from tests.fakes.receiver import Receiver
from tests.fakes.silent_dns import SilentDns
from tests.fakes.versions import card, version_files
from worker.notices import Notices
from worker.notify import MOST_AT_ONCE, PAUSES_S, Postman, sign

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
LIMIT_S = 0.5
RESOLVER_GIVES_UP_S = 10.0  #: glibc asks twice and waits five seconds each time
PROJECT = ProjectFacts(project_id=3, config_id="c", model_version="m-1.0", title="Street")
JOB = NotifyJob(id="msg_1", project_id=3, type="finetune.finished", body='{"type": "finetune.finished", "ü": 1}')


@pytest.fixture
def delayed(client):
    return Delayed(client)


def postman_for(receiver, delayed):
    return Postman(read_settings({"NOTIFY_URL": receiver.url, "NOTIFY_SECRET": SECRET}), delayed)


# -- delivery ------------------------------------------------------------------------------------------------------


def test_a_receiver_verifies_what_it_gets(delayed):
    with Receiver(SECRET) as receiver:
        postman_for(receiver, delayed).deliver(JOB)
        assert (receiver.events, receiver.refused) == ([{"type": "finetune.finished", "ü": 1}], 0)
    assert delayed.count() == 0


def test_the_signature_is_the_one_of_the_specification():
    # the example of the specification's own test vectors
    signature = sign("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330,
                     b'{"test": 2432232314}')  # fmt: skip
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_failure_waits_in_the_delayed_set_and_is_delivered_later_under_the_same_id(client, delayed):
    with Receiver(SECRET, answers=[503, 500]) as receiver:
        postman, job = postman_for(receiver, delayed), JOB
        for _ in range(2):
            postman.deliver(job)
            assert receiver.events == []
            ((_, due_s),) = client.zrange(KEY, 0, -1, withscores=True)
            assert due_s > time.time(), "not at once"
            (job,) = delayed.jobs()
            delayed.cancel(job)
        postman.deliver(job)
        assert len(receiver.events) == 1
        assert receiver.ids == ["msg_1"] * 3


@pytest.mark.parametrize(("answer", "attempt"), [(410, 0), (500, len(PAUSES_S))])
def test_it_is_given_up_when_the_receiver_is_gone_or_after_a_day(delayed, answer, attempt):
    with Receiver(SECRET, answers=[answer]) as receiver:
        postman_for(receiver, delayed).deliver(JOB.model_copy(update={"attempt": attempt}))
    assert delayed.count() == 0


def test_a_receiver_that_is_not_there_is_tried_again(delayed):
    with Receiver(SECRET) as receiver:
        postman = postman_for(receiver, delayed)
    postman.deliver(JOB)
    assert delayed.jobs() == [JOB.model_copy(update={"attempt": 1})]


def test_a_redirect_is_not_followed(delayed):
    with Receiver(SECRET, answers=[307]) as receiver:
        postman_for(receiver, delayed).deliver(JOB)
        assert len(receiver.ids) == 1
    assert delayed.count() == 1


def test_a_receiver_that_hangs_holds_a_few_threads_and_no_more(delayed):
    # given a receiver that hangs with all the threads it can get
    with Receiver(SECRET) as receiver:
        receiver.hang()
        postman = postman_for(receiver, delayed)
        threads = [threading.Thread(target=postman.deliver, args=(JOB,)) for _ in range(MOST_AT_ONCE)]
        for thread in threads:
            thread.start()
            assert receiver.arrived.acquire(timeout=60)

        # when there is more to tell, then it waits in Redis, and the caller goes on
        postman.deliver(JOB)
        assert delayed.jobs() == [JOB]
        receiver.released.set()
        for thread in threads:
            thread.join(timeout=60)
            assert not thread.is_alive()


def test_a_name_server_that_hangs_holds_the_notifier_no_longer_than_its_limit(delayed, monkeypatch):
    with SilentDns() as server:
        monkeypatch.setattr(socket, "getaddrinfo", server.getaddrinfo)
        monkeypatch.setattr(dns, "LONGEST_LOOK_UP_S", LIMIT_S)
        settings = read_settings({"NOTIFY_URL": "http://hooks.example.org/", "NOTIFY_SECRET": SECRET})
        began_s = time.monotonic()
        Postman(settings, delayed).deliver(JOB)
        assert time.monotonic() - began_s < RESOLVER_GIVES_UP_S / 2
        assert b"\5hooks\7example\3org" in server.wait_for_question(60)
    assert delayed.jobs() == [JOB.model_copy(update={"attempt": 1})]


def registry_in(folder):
    return Registry(read_settings({"MODEL_DIR": str(folder / "models")}))


# -- what is told --------------------------------------------------------------------------------------------------


@pytest.fixture
def told(client, tmp_path):
    """A look-out over an empty Redis, and what it has sent."""
    Projects(client).remember(PROJECT)
    sent: list[NotifyJob] = []
    notices = Notices(client, registry_in(tmp_path), sent.append, after_jobs=3)

    def look():
        sent.clear()
        notices.look()
        return [event.type for event in sent]

    look.sent = sent
    return look


def finish_jobs(client, first, count, *, failed=0):
    records = JobRecords(client, failed_memory_s=0)
    jobs = [PredictJob(project_id=3, task_id=task, image="i", config_id="c", model="m", model_version="v",
                       id=f"p3-t{task}-0") for task in range(first, first + count)]  # fmt: skip
    records.admit(jobs)
    for number, job in enumerate(jobs):
        if number < failed:
            records.fail(job.id, job.run, 3, GroundcrewError("no"))
        else:
            records.finish(job.id, job.run, 3, boxes=1)
    return records


def test_a_bulk_import_is_one_event_when_nothing_is_open_any_more(client, told):
    # given a project with an open job
    records = finish_jobs(client, 1, 4, failed=1)
    last = PredictJob(project_id=3, task_id=9, image="i", config_id="c", model="m", model_version="v", id="p3-t9-0")
    records.admit([last])
    assert told() == []

    # when it is done, then there is one event, once
    records.finish(last.id, last.run, 3, boxes=0)
    assert told() == ["predictions.finished"]
    assert '"done": 4, "failed": 1, "cancelled": 0' in told.sent[0].body
    assert told() == []


def test_single_images_are_told_of_when_enough_have_come_together(client, told):
    finish_jobs(client, 1, 2)
    assert told() == []
    finish_jobs(client, 3, 1)
    assert told() == ["predictions.finished"]


def end_finetune(client, **outcome):
    records = FinetuneRecords(client)
    job = new_finetune(3, "cli")
    records.request(job)
    records.start(job, "trainer")
    if outcome:
        records.finish(job.id, **outcome)
    else:
        records.fail(job.id, GroundcrewError("no annotations"))
    return job


def test_a_fine_tune_that_ends_is_told_once(client, told):
    job = end_finetune(client)
    assert told() == ["finetune.failed"]
    assert (job.id in told.sent[0].body, "no annotations" in told.sent[0].body) == (True, True)
    assert told() == []


def test_a_version_that_is_not_good_enough_is_told_as_refused(client, told):
    end_finetune(client, version="m-2", decision="refused", reason="mAP must rise")
    assert told() == ["finetune.finished", "version.published", "version.refused"]
    assert told() == []


def test_a_promotion_and_a_roll_back_are_told_whoever_made_them(told, tmp_path):
    registry = registry_in(tmp_path)
    version = registry.publish(version_files(tmp_path), card(project_id=3))
    assert told() == [], "what was current before the first look is no news"
    registry.promote(3, version.ref)
    assert told() == ["version.promoted"]
    assert f'"version": "{version.ref}"' in told.sent[0].body
    registry.rollback(3)
    assert told() == ["version.promoted"]
    assert told() == []


def test_another_writer_tells_nothing_twice(client, told, tmp_path):
    end_finetune(client)
    told()
    again: list[NotifyJob] = []
    Notices(client, registry_in(tmp_path), again.append, after_jobs=3).look()
    assert again == []

"""The status page as a person uses it: what it shows live, and what its buttons do.

Run by: pytest. Must not import: torch. What workers would do is done here by their own records, one step at a time.
Example: pytest tests/services/test_status_page.py
"""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, Page, expect

from contract.jobs import PredictJob
from tests.fakes.hand_worker import HandWorker
from tests.services.status_site import ANSWER_MS, Site, confirm, open_frozen, pass_promised_time

# -- live --------------------------------------------------------------------------------------------------------------


def test_images_move_from_waiting_to_done_without_a_reload(site: Site, page: Page) -> None:
    # given three waiting images and an open page
    site.showcase.add_crew()
    site.showcase.add_jobs(1, queued=3)
    worker = HandWorker(site.settings)
    open_frozen(page, site.url)
    card = page.locator("#project-1")
    expect(page.get_by_role("heading", level=1)).to_have_text("3 images are on their way.")
    expect(card).to_contain_text("3 waiting")

    # when a worker takes one, finds its boxes, and the writer stores them
    job = worker.run(worker.take())
    worker.crew.records.finish(job.id, job.run, 1, boxes=1)

    # then the open page shows it in time
    pass_promised_time(page)
    expect(card).to_contain_text("1 done", timeout=ANSWER_MS)
    expect(card).to_contain_text("2 waiting", timeout=ANSWER_MS)
    expect(page.get_by_role("heading", level=1)).to_have_text("2 images are on their way.", timeout=ANSWER_MS)


def test_a_finetune_shows_how_far_it_is(site: Site, page: Page) -> None:
    # given one under way
    job = site.showcase.start_finetune(1)
    open_frozen(page, site.url)
    row = page.locator(f"#{job.id}")
    expect(row).to_contain_text("140 / 400")
    expect(row.locator("progress")).to_have_js_property("value", 140)

    # when it goes on
    site.showcase.finetunes.progress(job.id, iteration=360, loss=0.412, eta_s=40)

    # then
    pass_promised_time(page)
    expect(row).to_contain_text("360 / 400", timeout=ANSWER_MS)
    expect(row).to_contain_text("0.412")
    expect(row.locator("progress")).to_have_js_property("value", 360)

    # when it is measured / then the next stage is marked
    site.showcase.finetunes.progress(job.id, stage="evaluate")
    pass_promised_time(page)
    expect(row.locator("[aria-current=step]")).to_have_text("evaluate", timeout=ANSWER_MS)


def test_a_finetune_that_waits_for_a_gpu_says_so(site: Site, page: Page) -> None:
    job = site.showcase.start_finetune(1)
    site.showcase.finetunes.progress(job.id, stage="waiting for a GPU")
    open_frozen(page, site.url)
    expect(page.locator(f"#{job.id}")).to_contain_text("waiting for a GPU")
    expect(page.locator(f"#{job.id} [aria-current=step]")).to_have_count(0)


CUTTING = [("en", "cutting images into tiles", "images done"), ("zh", "正在切片", "已完成图片")]


@pytest.mark.parametrize(("language", "stage", "label"), CUTTING)
def test_a_finetune_that_cuts_tiles_shows_how_many_images_are_done(
    site: Site, page: Page, language: str, stage: str, label: str
) -> None:
    job = site.showcase.start_finetune(1)
    site.showcase.finetunes.progress(job.id, stage="cut into tiles", stage_done=12, stage_total=40)
    page.goto(f"{site.url}?lang={language}")
    row = page.locator(f"#{job.id}")
    expect(row).to_contain_text(stage)
    expect(row).to_contain_text("12 / 40")
    expect(row.get_by_role("progressbar", name=label)).to_have_js_property("value", 12)


def test_a_live_page_keeps_the_focus_where_it_is(site: Site, page: Page) -> None:
    # given someone who walks through the page by keyboard
    job = site.showcase.start_finetune(1)
    page.goto(site.url)
    button = page.locator(f"#cancel-{job.id}")
    button.focus()

    # when the page changes under their fingers
    site.showcase.finetunes.progress(job.id, iteration=200)
    expect(page.locator(f"#{job.id}")).to_contain_text("200 / 400", timeout=ANSWER_MS)

    # then
    expect(button).to_be_focused()


def test_a_page_that_is_not_up_to_date_says_so(site: Site, page: Page, complaints: list[str]) -> None:
    open_frozen(page, site.url)
    pass_promised_time(page)
    expect(page.locator("#pulse")).to_have_text("Live")
    page.route("**/*", lambda route: route.fulfill(status=502, body="gone"))
    pass_promised_time(page)
    expect(page.locator("#pulse")).to_have_text("Not updating: the API does not answer", timeout=ANSWER_MS)
    page.unroute("**/*")
    pass_promised_time(page)
    expect(page.locator("#pulse")).to_have_text("Live", timeout=ANSWER_MS)
    complaints.clear()  # the browser's own lines about 502


# -- buttons -----------------------------------------------------------------------------------------------------------


def test_cancelling_a_finetune_asks_first(site: Site, page: Page) -> None:
    # given
    job = site.showcase.start_finetune(1)
    page.goto(site.url)
    cancel = page.locator(f"#cancel-{job.id}")

    # when someone presses Cancel and then thinks better of it / then nothing has happened
    cancel.click()
    page.get_by_role("button", name="No, go back").click()
    assert not site.showcase.finetunes.is_cancelled(job.id)

    # when they mean it
    cancel.click()
    confirm(page)

    # then the trainer is told, and the page says so
    expect(page.get_by_text("Cancelled, or told to stop.")).to_be_visible()
    expect(page.locator(f"#{job.id}")).to_contain_text("stopping")
    assert site.showcase.finetunes.is_cancelled(job.id)


def test_a_waiting_image_is_cancelled(site: Site, page: Page) -> None:
    site.showcase.add_jobs(1, queued=1)
    page.goto(f"{site.url}/ui/projects/1")
    page.locator(".tasks").get_by_role("button", name="Cancel").click()
    confirm(page)
    expect(page.locator(".tasks .state")).to_have_text("cancelled")
    assert site.showcase.records.counts(1)["cancelled"] == 1


def test_a_failure_shows_its_reason_and_is_tried_again(site: Site, page: Page) -> None:
    # given an image that was not there a moment ago
    site.showcase.add_jobs(1, failed=1)
    worker = HandWorker(site.settings)
    page.goto(site.url)
    expect(page.locator("#failures + .list")).to_contain_text("https://images.example.org has no such image (404)")

    # when
    page.get_by_role("button", name="Try again").click()

    # then it is asked for anew, as a job that a worker can run, and no failure is listed any more
    expect(page.get_by_text("Sent again.")).to_be_visible()
    expect(page.get_by_text("Nothing has failed.")).to_be_visible()
    again = PredictJob.model_validate(worker.take())
    assert (again.task_id, again.attempt, again.delivery) == (1, 0, "write")
    worker.run(again.to_json())
    assert site.showcase.records.get(again.id)["state"] == "writing"


def test_promote_and_roll_back(site: Site, page: Page) -> None:
    # given version 1 in use and version 2 refused
    registry = site.showcase.registry
    page.goto(f"{site.url}/ui/projects/1")
    expect(page.locator("#model-tiny-shapes-p1-1 .state")).to_have_text("in use")

    # when someone uses version 2 all the same
    page.locator('[id="promote-tiny-shapes-p1-2"]').click()
    confirm(page)

    # then new jobs get it, and the version that Label Studio will see is shown
    expect(page.get_by_text("The version is in use for new predictions.")).to_be_visible()
    expect(page.locator("#model-tiny-shapes-p1-2 .state")).to_have_text("in use")
    expect(page.get_by_text(re.compile(r"tiny-shapes-p1-2\.[0-9a-f]{8}"))).to_be_visible()
    assert registry.current(1).ref == "tiny-shapes-p1-2"

    # when they go back, twice / then there is nothing before the base
    for ref in ("tiny-shapes-p1-1", "tiny-shapes-1"):
        page.locator("#rollback").click()
        confirm(page)
        expect(page.locator(f"#model-{ref} .state")).to_have_text("in use")
        assert registry.current(1).ref == ref
    expect(page.locator("#rollback")).to_have_count(0)


def test_a_finetune_is_started(site: Site, page: Page) -> None:
    page.goto(f"{site.url}/ui/projects/1")
    page.locator("#start-finetune").click()
    confirm(page)
    expect(page.get_by_text("The fine-tune is queued.")).to_be_visible()
    (record,) = site.showcase.finetunes.latest(1)
    assert (record["state"], record["requested_by"]) == ("queued", "page")


def test_buttons_work_without_javascript_and_ask_on_a_page_of_their_own(site: Site, chromium: Browser) -> None:
    # given
    job = site.showcase.start_finetune(1)
    page = chromium.new_context(java_script_enabled=False, locale="en-US").new_page()
    page.goto(site.url)

    # when
    page.locator(f"#cancel-{job.id}").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Are you sure?")
    assert not site.showcase.finetunes.is_cancelled(job.id)
    page.get_by_role("button", name="Yes, do it").click()

    # then
    expect(page.get_by_text("Cancelled, or told to stop.")).to_be_visible()
    assert site.showcase.finetunes.is_cancelled(job.id)
    page.context.close()

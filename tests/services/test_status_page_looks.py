"""The status page for everyone: languages, colours, phones, keyboards, screen readers, and what it says of each thing.

Run by: pytest. Must not import: torch.
Example: pytest tests/services/test_status_page_looks.py
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import redis
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from contract.errors import ImageUnreadable, TrainingDataError
from contract.settings import read_settings
from tests.fakes.showcase import SHELF, Showcase
from tests.services.status_site import Site, serve

PAGES = ("/", "/ui/projects/1", "/ui/models", "/ui/models/tiny-shapes-p1-1")

# -- for everyone ------------------------------------------------------------------------------------------------------


def test_the_language_is_the_browsers_until_someone_chooses(site: Site, page: Page, chromium: Browser) -> None:
    # given an English browser / when it chooses Chinese
    page.goto(site.url)
    expect(page.locator("html")).to_have_attribute("lang", "en")
    page.get_by_role("link", name="中文").click()

    # then the page is Chinese, stays so while it updates, and on other pages
    expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
    expect(page.get_by_role("heading", name="项目")).to_be_visible()
    with page.expect_response(lambda answer: "hx-request" in answer.request.headers):
        pass
    expect(page.get_by_role("heading", name="项目")).to_be_visible()
    page.goto(f"{site.url}/ui/models")
    expect(page.get_by_role("heading", level=1)).to_have_text("模型")

    # and a Chinese browser gets it at once
    chinese = chromium.new_context(locale="zh-CN").new_page()
    chinese.goto(site.url)
    expect(chinese.locator("html")).to_have_attribute("lang", "zh-CN")
    chinese.context.close()


def test_dark_is_the_systems_until_someone_chooses(site: Site, page: Page) -> None:
    def ground() -> str:
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    # given
    page.emulate_media(color_scheme="light")
    page.goto(site.url)
    light = ground()

    # when the system turns dark / then
    page.emulate_media(color_scheme="dark")
    dark = ground()
    assert light != dark

    # when someone chooses / then it stays, whatever the system says
    page.get_by_role("link", name="Light").click()
    expect(page.locator("body")).to_have_css("background-color", light)  # the click does not wait for the new page
    page.goto(f"{site.url}/ui/models")
    assert ground() == light
    page.get_by_role("link", name="Dark").click()
    page.emulate_media(color_scheme="light")
    expect(page.locator("body")).to_have_css("background-color", dark)


@pytest.mark.parametrize("path", PAGES)
def test_a_phone_needs_no_sideways_scrolling(site: Site, page: Page, path: str) -> None:
    site.showcase.make_busy()
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto(f"{site.url}{path}")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_serious_violation(site: Site, page: Page, theme: str, language: str) -> None:
    site.showcase.make_busy()
    found = {}
    for path in PAGES:
        page.goto(f"{site.url}{path}?theme={theme}&lang={language}")
        violations = Axe().run(page).response["violations"]
        found[path] = [(one["id"], one["nodes"][0]["html"][:200]) for one in violations
                       if one["impact"] in ("serious", "critical")]  # fmt: skip
    assert found == {path: [] for path in PAGES}


def test_the_keyboard_reaches_everything_and_shows_where_it_is(site: Site, page: Page) -> None:
    # given / when someone presses Tab
    job = site.showcase.start_finetune(1)
    page.goto(site.url)
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    expect(page.locator(".skip")).to_be_in_viewport()
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == f"cancel-{job.id}":
            break

    # then the button has a visible ring, and Enter and Escape work
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    expect(page.locator("#confirm")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#confirm")).to_be_hidden()
    assert not site.showcase.finetunes.is_cancelled(job.id)


# -- what is shown -----------------------------------------------------------------------------------------------------


def test_nothing_there_yet_is_explained(redis_url: str, client: redis.Redis, tmp_path: Path, page: Page) -> None:
    settings = read_settings({"REDIS_URL": redis_url, "MODEL_DIR": str(tmp_path)})
    with serve(settings, Showcase(settings, client)) as site:
        page.goto(site.url)
        expect(page.get_by_text("No worker is connected: start one with")).to_be_visible()
        expect(page.get_by_text("No project is connected yet.")).to_contain_text(site.url)
        expect(page.get_by_text("All queues are empty.")).to_be_visible()


def test_the_newest_projects_are_shown_and_the_others_counted(site: Site, page: Page) -> None:
    for project_id in range(2, 34):
        site.showcase.add_project(project_id, f"Number {project_id}", SHELF)

    page.goto(site.url)

    expect(page.locator(".card")).to_have_count(30)
    expect(page.locator("#project-33")).to_be_visible()
    expect(page.locator("#project-3")).to_have_count(0)
    expect(page.get_by_text("3 older projects are not shown")).to_be_visible()


def test_agreement_is_shown_by_version_and_label_with_the_worst_first(site: Site, page: Page) -> None:
    # given / when
    site.showcase.add_agreement(1)
    page.goto(f"{site.url}/ui/projects/1")

    # then the newer version comes first, and agrees more
    shown = page.locator("#agreement ~ div .number").all_inner_texts()
    newer, older = (int(text.removeprefix("F1 ").rstrip("\u202f%")) for text in shown)
    assert newer > older
    expect(page.get_by_role("rowheader", name="traffic_light")).to_be_visible()
    worst = page.locator(".worst a").first
    expect(worst).to_have_attribute("href", re.compile(r"^http://studio:8080/projects/1/data\?task=\d+$"))


def test_a_version_shows_its_card_figures_and_curves(site: Site, page: Page) -> None:
    page.goto(f"{site.url}/ui/models/tiny-shapes-p1-1")
    for name, before, change in (("Weighted mAP on the", "0.385", "+0.256"), ("mAP on the", "0.412", "+0.252")):
        row = page.get_by_role("row", name=re.compile(f"^{name}"))
        expect(row).to_contain_text(before)
        expect(row).to_contain_text(change)
    evidence = page.locator("#evidence")
    expect(evidence).to_contain_text("Measured on 32 images with boxes")
    expect(evidence).to_contain_text("+0.205 to +0.301. Each end holds with 90\u202f% confidence")
    expect(evidence).not_to_contain_text("few images")
    for name in ("Loss over the iterations", "Precision over recall, before and after"):
        assert page.get_by_alt_text(name).evaluate("image => image.naturalWidth") == 1


def test_a_version_that_few_images_measured_says_so(site: Site, page: Page) -> None:
    # given a fine-tune that three images measured, which is too few for any confidence
    evidence = {"rise": 0.3, "lowest": 0.1, "highest": 0.4, "images": 3, "few_images": True}
    ref = site.showcase.publish(1, 3, {"candidate": {"val": {"map": 0.7}}}, "promoted", "mAP rose.",
                                verdict="better", evidence=evidence)  # fmt: skip
    # when / then
    page.goto(f"{site.url}/ui/models/{ref}")
    said = page.locator("#evidence")
    for words in (
        "3 images",
        "+0.100 to +0.400",
        "too few to say how sure",
        "Image by image",
        "rests on few images: annotate more",
    ):
        expect(said).to_contain_text(words)
    assert "Each end" not in said.inner_text()


def test_prompts_are_shown_as_the_model_reads_them(site: Site, page: Page) -> None:
    site.showcase.add_project(2, "", SHELF.replace('"can"', '"box_lid" prompt="lid, box lid"'))
    page.goto(f"{site.url}/ui/projects/2")
    row = page.locator(".prompts li", has_text="box_lid")
    expect(row.locator("q")).to_have_text(["lid", "box lid"])
    expect(page.locator(".warnings")).to_contain_text('asks for "box", which is part of "box lid"')


def test_a_chinese_page_explains_reasons_in_chinese_with_their_details(site: Site, page: Page) -> None:
    # given failures, a fine-tune that found too little, a refused version and prompts that the linter warns of
    site.showcase.add_jobs(1, failed=1)
    few = "project 2 has no submitted annotation: annotate at least 2 images and submit them"
    site.showcase.fail_finetune(2, TrainingDataError(few))
    site.showcase.add_project(2, "", SHELF.replace('"can"', '"box_lid" prompt="lid, box lid"'))

    # when / then what it is and what to do, the code, and the sentence with its names and numbers
    page.goto(f"{site.url}/?lang=zh")
    failure = page.locator("#failures + .list .reason")
    expect(failure).to_contain_text("任务给出的地址上没有图片。请检查任务里的地址")
    expect(failure.locator("code")).to_have_text("image_not_found")
    expect(failure.locator(".original")).to_have_text("https://images.example.org 没有这张图片（404）。")
    page.goto(f"{site.url}/ui/projects/2")
    expect(page.locator(".warnings")).to_contain_text("它的提示词是另一个提示词的一部分")
    expect(page.locator(".warnings .original").first).to_have_text("提示词“lid”是“box lid”的一部分。")
    expect(page.locator(".finetune .original")).to_contain_text("项目 2 还没有提交过标注。请至少标注 2 张图片并提交。")
    expect(page.locator("main [lang=en]")).to_have_count(0)
    page.goto(f"{site.url}/ui/models/tiny-shapes-p1-2")
    expect(page.locator(".hero")).to_contain_text("在基础模型自带的图片上忘得太多")
    expect(page.locator("#evidence")).to_contain_text("区间两端各有 90\u202f% 的置信度")
    expect(page.locator(".hero .original")).to_contain_text("自带图片上的 AP50 从 0.997 变为 0.931：忘掉的超过 0.02。")
    expect(page.locator("main [lang=en]")).to_have_count(0)
    problem = page.request.get(f"{site.url}/ui/models/no-such-1", headers={"Accept": "text/html"})
    assert "没有登记过这个名称和版本的模型" in problem.text()


def test_what_nobody_wrote_in_chinese_stays_english_and_says_so(site: Site, page: Page) -> None:
    """A sentence of a newer worker, below what its code means; what Python says, within a sentence of ours."""
    (new, old) = site.showcase.make_jobs(1, 1, 2)
    for job, reason in ((new, "the image is of a kind to come"), (old, "the image is damaged: bad EXIF data")):
        site.showcase.records.admit([job])
        site.showcase.records.fail(job.id, job.run, 1, ImageUnreadable(reason))

    page.goto(f"{site.url}/?lang=zh")

    expect(page.locator(f"#failed-{new.id} [lang=en]")).to_have_text("the image is of a kind to come")
    expect(page.locator(f"#failed-{old.id} .original")).to_have_text("图片已损坏：bad EXIF data")


def test_names_from_outside_are_text_and_nothing_else(site: Site, page: Page) -> None:
    # given labels, a title and a reason that would like to be a script
    evil = "<img src=x onerror=document.title=1>"
    escaped = evil.replace("<", "&lt;").replace(">", "&gt;")
    site.showcase.add_project(2, evil, SHELF.replace('"can"', f'"{escaped}"'))
    (job,) = site.showcase.make_jobs(2, 1, 1)
    site.showcase.records.admit([job])
    site.showcase.records.fail(job.id, job.run, 2, type("Evil", (Exception,), {"code": evil, "message": evil})())

    # when / then they are shown as they are
    for path in ("/", "/ui/projects/2"):
        page.goto(f"{site.url}{path}")
        expect(page.get_by_role("heading", name=evil)).to_be_visible()
        expect(page.get_by_text(evil).last).to_be_visible()
        expect(page.locator("img")).to_have_count(0)
        assert page.title() != "1"

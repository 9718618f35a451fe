"""What a Chinese reader can meet on the status page is there in Chinese: no sentence of ours is missed, none is stale.

Run by: pytest. Must not import: torch. tests/unit/test_page_parts.py looks at what is said of each code.
Example: pytest tests/unit/test_phrases.py
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from string import Formatter
from typing import get_args

import numpy as np
import pytest

from backend.payloads import Task, read_images
from backend.ui.phrases import SHARED, Phrases
from backend.ui.words import Words, load
from contract.cards import Verdict
from contract.errors import PayloadError
from contract.labels import read_label_config
from contract.redact import redact
from contract.tiling import Tiling
from tests.sentences import REPOSITORY, SIDES, Sentence, read_sentences
from tests.unit.test_decision import among_known, judge, metrics
from worker.dataset import Category, Dataset, DatasetInfo, SkippedTask
from worker.decision import Decision, Findings, Rule, decide
from worker.evaluate import Metrics
from worker.remarks import warn
from worker.stages import _counts
from worker.tiles import TileLook

SECTIONS = load("zh-phrases")
SENTENCES = list(read_sentences())
PHRASES = [(code, english, chinese) for code, section in SECTIONS.items() for english, chinese in section.items()]
#: (file, code) -> why no page shows its sentences
ELSEWHERE = {
    ("contract/prompt_map.py", "bad_setting"): "ends the process at its start",
    ("contract/prompts.py", "bad_setting"): "ends the process at its start",
    ("contract/sentinel.py", "bad_setting"): "ends the process at its start",
    ("contract/settings.py", "bad_setting"): "ends the process at its start",
    ("contract/traces.py", "bad_setting"): "ends the process at its start",
    ("worker/tasks.py", "bad_message"): "pydantic's words",
    ("backend/auth.py", "unauthorized"): "comes before the page",
    ("backend/dispatch.py", "prediction_failed"): "answers Label Studio, with the reason of a job",
    ("backend/payloads.py", "bad_payload"): "answers Label Studio and programs",
    ("backend/routes.py", "bad_payload"): "answers programs",
}
ADD_IT = "write it in Chinese in backend/ui/translations/zh-phrases.json, or say in ELSEWHERE why no page shows it"


def say(code: str, english: str) -> str:
    """In Chinese, as a page shows it. Fails where three words of English are left, or a sentence does not end."""
    said = Words("zh").detail(code, english)
    assert said is not None, f"{english}: {ADD_IT}"
    assert not re.search(r"(?:\b[a-z]{3,} ){2}[a-z]{3,}", re.sub("`[^`]*`", "", said)), said
    assert not re.search("。[。，；]", said), said
    return said


def fill(text: str) -> str:
    """A phrase as a worker says it, each value a number."""
    return "".join(words + ("7" if name is not None else "") for words, name, *_ in Formatter().parse(text))


# -- nothing is missed -------------------------------------------------------------------------------------------------


def test_every_sentence_that_a_page_can_show_is_there_in_chinese() -> None:
    sentences = [one for one in SENTENCES if (one.place.partition(":")[0], one.code) not in ELSEWHERE]
    missed = [one for one in sentences if Words("zh").detail(one.code, one.text.replace("{}", "7")) is None]

    assert len(sentences) > 150
    assert missed == [], ADD_IT


def test_what_is_said_elsewhere_is_said_somewhere() -> None:
    found = {(one.place.partition(":")[0], one.code) for one in SENTENCES}
    assert ELSEWHERE.keys() <= found


def test_sentences_are_found_with_their_blanks() -> None:
    """In each form that the code has: of a class, its documentation, a field, a constant, a function."""
    found = {one._replace(place=one.place.partition(":")[0]) for one in SENTENCES}
    for place, code, text in (
        ("worker/addresses.py", "image_too_large", "the file is larger than IMAGE_LIMIT_BYTES={}"),
        ("worker/models.py", "detector_hung", "The detector did not answer within its limit."),
        ("contract/labels.py", "bad_label_config", "label_config has {} RectangleLabels; at most {} are read"),
        ("worker/downloads.py", "image_unavailable", "{} answered {}"),
        ("contract/stores.py", "registry_error",
         "version {} exists already, and versions never change; choose another name"),
        ("contract/lookup.py", "cancelled", "cancelled by hand"),
        ("contract/prompts.py", "warning_other_image", 'control "{}" belongs to another image and gets no boxes'),
        ("worker/annotations.py", "parts", 'box ignored: the label "{}" has no prompt'),
    ):  # fmt: skip
        assert Sentence(place, code, text) in found


@pytest.mark.parametrize("data", [{}, {"image": 3}, {"image": " "}, {"image": "x" * 20_000}])
def test_a_task_without_an_image_says_so_in_chinese(data: dict[str, object]) -> None:
    config = """<View><Image name="i" value="$image"/>
                <RectangleLabels name="l" toName="i"><Label value="car"/></RectangleLabels></View>"""
    with pytest.raises(PayloadError) as raised:
        read_images([Task(1, data, "tasks[0]")], read_label_config(config))
    assert "tasks[0].data.image" in say("bad_payload", raised.value.message)


@pytest.mark.parametrize("splits", [[], ["train"], ["val"]])
def test_what_is_wrong_with_the_data_is_said_in_chinese(splits: list[str]) -> None:
    assert "“car”" in say("data", str(warn("car", splits)))


def test_what_was_left_out_of_the_data_is_said_in_chinese_with_its_reason() -> None:
    # given four labels without boxes, and tasks that were left out for a reason of the image's
    categories = tuple(Category(number, f"label {number}", ("x",)) for number in range(4))
    skipped = tuple(SkippedTask(number, "the image is damaged: broken PNG") for number in range(2))
    data = Dataset(DatasetInfo(1, "", "", ""), categories, (), Path(), {}, skipped)

    # when
    first, *_, last = [say("data", remark) for remark in data.remarks]

    # then
    assert first == "2 个标注过的任务里有 2 个没有使用，其中 2 个的原因是：图片已损坏：broken PNG。"
    assert last == "另有 1 个标签缺少用来学习或验证的框。"


def test_what_a_card_counts_has_a_name_in_both_languages() -> None:
    look = TileLook(Tiling(300, 0.4, whole_image=True), 0.3)
    counted = _counts(Dataset(DatasetInfo(1, "", "", ""), (), (), Path(), {}, (), look))
    assert len(counted) > 8
    assert {f"count_{name}" for name in counted} <= load("en").keys()


def decisions() -> list[Decision]:
    """One of each verdict, of many images and of few."""
    general = [Metrics(ap50, ap50, {}, {}, 3, 9, np.zeros(101)) for ap50 in (0.9, 0.895, 0.5)]
    before, kept, forgot = (Findings(metrics([found] * 9), one) for found, one in zip((1, 3, 3), general, strict=True))
    return [
        judge([1] * 30, [3] * 30), judge([1] * 5, [3] * 5), judge([2] * 30, [2] * 30), judge([2] * 3, [2] * 3),
        judge([2] * 30, [3] * 6 + [1] * 5 + [2] * 19), judge([2, 2], [3, 1]), judge([2, 1, 2], [3, 2, 2]),
        decide(before, kept), decide(before, forgot), decide(Findings(among_known(0, 0)), Findings(among_known(3, 3))),
        decide(Findings(metrics([1])), Findings(Metrics(0, 0, {}, {}, 1, 0, np.zeros(101)))),
    ]  # fmt: skip


def test_what_a_decision_rests_on_is_said_in_chinese_with_the_same_figures() -> None:
    made = decisions()
    assert {one.verdict for one in made} >= set(get_args(Verdict))
    for one in made:
        said = say(f"verdict_{one.verdict}", one.reason)
        assert said == say("decision_refused", one.reason)  # as the record of a fine-tune has it
        assert not said or re.findall(r"\d+\.\d+", said) == re.findall(r"\d+\.\d+", one.reason)


def test_the_rule_is_said_in_chinese_with_its_figures() -> None:
    said = say("rule", Rule(confidence=0.95, fewest_images=4).describe())
    assert "以 95% 的置信度" in said
    assert "不足 4 张时" in said


# -- nothing is stale or wrong -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "english", "chinese"), PHRASES, ids=[english[:60] for _, english, _ in PHRASES])
def test_a_phrase_fits_what_it_translates(code: str, english: str, chinese: str) -> None:
    named = [{name for _, name, *_ in Formatter().parse(text) if name} for text in (english, chinese)]

    assert named[1] <= named[0]
    assert any(words.strip(" .") for words, *_ in Formatter().parse(english)), "it would fit everything"
    assert redact(fill(english)) == fill(english), "records are redacted before they are stored"
    assert say({"warning": "warning_x", "decision": "decision_x"}.get(code, code), fill(english)) == fill(chinese)
    if code != SHARED and chinese:
        assert chinese.endswith(("。", "{error}", "{kind}", "{words}")), "others end with a stop"


def test_every_phrase_is_still_said() -> None:
    """The longest piece of it without a value stands in the code; after a colon another text may begin."""
    written = "\0".join(
        node.value for side in SIDES for path in (REPOSITORY / side).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )  # fmt: skip
    for _, english, _ in PHRASES:
        longest = max((words for words, *_ in Formatter().parse(english)), key=len)
        assert all(part.strip(" .") in written for part in longest.split(": ")), english


# -- how it works ------------------------------------------------------------------------------------------------------


def test_sentences_in_sentences_are_put_as_far_as_ours_go() -> None:
    # given what no code of ours writes, but a label or the name of a file may hold
    phrases = Phrases({"c": {"then {rest}": "接着 {rest}"}})
    assert phrases.put("c", "then " * 150 + "end") == "接着 " * 4 + "then " * 146 + "end"
    assert phrases.put("c", "then " * 15_000 + "end") is None, "a long one stays English"


def test_values_and_clauses_go_along_and_free_text_stays() -> None:
    """A {count} is a whole number, so that of two lists each gets its own."""
    phrases = Phrases({
        "late": {"{host} was {time} late": "{host} 晚了 {time}。", "{what} failed ({why})": "{what} 失败（{why}）。"},
        "lost": {"lost: {lists}": "丢失：{lists}。"},
        "parts": {"{count} old: {names}. {rest}": "旧的 {count} 个：{names}。{rest}",
                  "{count} brand-new: {names}.": "新的 {count} 个：{names}",
                  "the clock of {host} is wrong": "{host} 的钟不准"},
    })  # fmt: skip

    assert phrases.put("late", "a.b was 3 s late") == "a.b 晚了 3 s。"
    assert phrases.put("late", "it failed (the clock of b is wrong)") == "it 失败（b 的钟不准）。"
    assert phrases.put("late", "it failed (a.b was 3 s late)") == "it 失败（a.b 晚了 3 s）。"
    assert phrases.put("late", "it failed ({x}\nKeyError: 'y')") == "it 失败（{x}\nKeyError: 'y'）。"
    assert phrases.put("lost", "lost: 2 old: a, b. 1 brand-new: c.") == "丢失：旧的 2 个：a, b。新的 1 个：c。"
    assert phrases.put("late", "a newer worker says this") is None
    assert phrases.put("early", "a.b was 3 s late") is None


def test_english_needs_no_phrases() -> None:
    assert Words("en").detail("image_too_large", "the file is larger than IMAGE_LIMIT_BYTES=7") is None

"""Parts of the status page that need no service: words, figures of cards, plots.

Run by: pytest. Must not import: worker.
Example: pytest tests/unit/test_page_parts.py
"""

from __future__ import annotations

import re
from pathlib import Path
from string import Formatter
from typing import get_args

import pytest

from backend.ui.card import Evidence, Figure, compare_metrics, read_evidence, read_facts
from backend.ui.charts import line_of
from backend.ui.words import LANGUAGES, Words, load
from contract.cards import Verdict, VersionCard

UI = Path(__file__).parents[2] / "backend" / "ui"
SPOKEN = re.compile(r'\bt\("([a-z0-9_]+)"[,)]')


def blanks(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name}


def test_both_languages_say_the_same_things() -> None:
    english, chinese = load("en"), load("zh")
    assert english.keys() == chinese.keys()
    assert {key: blanks(text) for key, text in english.items()} == {key: blanks(text) for key, text in chinese.items()}


def test_every_text_that_a_page_uses_is_written() -> None:
    used = {key for path in UI.glob("templates/*.html") for key in SPOKEN.findall(path.read_text("utf-8"))}
    assert len(used) > 80
    assert used <= load("en").keys()


def test_every_chinese_text_is_chinese() -> None:
    same = {key for key, text in load("zh").items() if not re.search(r"[\u4e00-\u9fff]", text)}
    assert same == {"f1", "card_nms_iou", "made_by_label-studio", "made_by_auto"}


def codes() -> set[str]:
    """Of every class of errors on both sides, and of every piece of advice on prompts."""
    errors = {
        code for side in ("contract", "worker", "backend") for path in (UI.parents[1] / side).rglob("*.py")
        for code in re.findall(r'^    code(?:: ClassVar\[str\])? = "(\w+)"', path.read_text("utf-8"), re.MULTILINE)
    }  # fmt: skip
    advice = re.findall(r'PromptWarning\(\s*"(\w+)"', (UI.parents[1] / "contract" / "prompts.py").read_text("utf-8"))
    return errors | {f"warning_{code}" for code in advice}


def test_every_reason_is_explained_in_chinese_with_what_to_do() -> None:
    explained = load("zh-reasons")
    assert len(codes()) > 45
    verdicts = {f"verdict_{one}" for one in get_args(Verdict)}
    assert codes() | verdicts | {"decision_promoted", "decision_refused"} == explained.keys()
    for code, text in explained.items():
        sentences = [part for part in re.split("[。；]", text) if part]
        assert re.search(r"[\u4e00-\u9fff]", text), code
        assert text.endswith("。"), code
        assert len(sentences) >= 2, f"{code}: say what it is, and what to do"


def test_a_reason_in_english_needs_no_explanation_and_a_new_code_has_none() -> None:
    assert Words("en").why("image_not_found") == ""
    assert Words("zh").why("invented_later") == ""
    assert "图片" in Words("zh").why("image_not_found")


@pytest.mark.parametrize(
    ("seconds", "english", "chinese"),
    [(0, "0 s", "0 秒"), (59.4, "59 s", "59 秒"), (61, "1 min", "1 分钟"), (7500, "2 h 5 min", "2 小时 5 分钟"),
     (3 * 86400, "3 days", "3 天")],
)  # fmt: skip
def test_durations(seconds: float, english: str, chinese: str) -> None:
    assert (Words("en").duration(seconds), Words("zh").duration(seconds)) == (english, chinese)


def test_numbers_and_shares() -> None:
    assert Words.number(1234567) == "1\u202f234\u202f567"
    assert (Words.percent(0.876), Words.percent(None)) == ("88\u202f%", "–")
    assert set(LANGUAGES) == {"en", "zh"}


def test_figures_of_a_card_stand_side_by_side() -> None:
    # given a version with a class that its base could not find, and no forgetting check
    card = VersionCard(name="a", version="1", base="b-1", metrics={
        "base": {"val": {"map": 0.4, "weighted_map": 0.3, "ap50": 0.5, "per_class_ap": {"car": 0.4}}},
        "candidate": {"val": {"map": 0.6, "weighted_map": 0.8, "ap50": 0.7, "per_class_ap": {"van": 0.8, "car": 0.4}}},
    })  # fmt: skip

    # then
    assert compare_metrics(card) == [
        Figure("weighted_map_val", 0.3, 0.8), Figure("map_val", 0.4, 0.6), Figure("ap50_val", 0.5, 0.7),
        Figure("car", 0.4, 0.4), Figure("van", None, 0.8),
    ]  # fmt: skip
    assert read_facts(card) == {"base": "b-1", "score_threshold": 0.3, "nms_iou": 0.7}
    assert compare_metrics(VersionCard(name="a", version="1")) == []


def test_what_a_decision_rests_on_is_read_from_its_card() -> None:
    # given a card of ten images, one of so few that there is no confidence, and one of an older worker
    ten = {"lowest": 0.1, "highest": 0.3, "images": 10, "confidence": 0.9, "few_images": True}
    three = {"lowest": 0.1, "highest": 0.3, "images": 3, "few_images": True}
    found = [read_evidence(VersionCard(name="a", version="1", evidence=one)) for one in (ten, three, {})]
    # then
    assert found == [Evidence(0.1, 0.3, 10, 0.9, True), Evidence(0.1, 0.3, 3, None, True), None]


def test_a_line_goes_from_left_to_right_and_up() -> None:
    assert line_of([0.5, 1.0, 0.0]) == "30.0,45.0 170.0,10.0 310.0,80.0"
    assert line_of([0.5]) == ""

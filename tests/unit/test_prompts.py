"""Prompts typed by people, the prompt map file, and the linter.

Run by: pytest. Must not import: backend, worker.
Example: pytest tests/unit/test_prompts.py
"""

from __future__ import annotations

import pytest

from contract.errors import PromptError, SettingsError
from contract.labels import LabelMap, read_label_config
from contract.prompts import estimate_tokens, lint_prompts, read_interactive, read_prompt_map

STREET = read_label_config(
    """<View><Image name="image" value="$image"/>
  <RectangleLabels name="label" toName="image">
    <Label value="car"/><Label value="person"/><Label value="红绿灯" alias="traffic_light"/>
    <Label value="汽车" predicted_values="van, bus"/><Label value="salt and pepper"/>
  </RectangleLabels>
  <TextArea name="prompt" toName="image" smart="true"/>
  <Number name="threshold" toName="image" smart="true"/></View>""",
    prompt_map={"狗": "dog", "猫": "cat, kitten"},
)


def project(labels: str, more: str = "") -> LabelMap:
    return read_label_config(
        '<View><Image name="image" value="$image"/><RectangleLabels name="label" toName="image">'
        f"{labels}</RectangleLabels>{more}</View>"
    )


def typed(*texts: object, number: object = None, selected: str | None = None) -> dict[str, object]:
    """The context that the editor sends."""
    regions: list[object] = [{"from_name": "prompt", "type": "textarea", "value": {"text": list(texts)}}]
    if number is not None:
        regions.append({"from_name": "threshold", "type": "number", "value": {"number": number}})
    if selected is not None:
        regions.append({"from_name": "label", "value": {"x": 1, "rectanglelabels": [selected]}})
    return {"result": regions}


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("car", [("car", "car")]),
        ("Car . Person", [("car", "car"), ("person", "person")]),
        ("car, person; car.", [("car", "car"), ("person", "person")]),
        ("car and person", [("car", "car"), ("person", "person")]),
        ("car\nperson", [("car", "car"), ("person", "person")]),
        ("car、person，car；person。", [("car", "car"), ("person", "person")]),
        ("红绿灯 and car", [("traffic light", "traffic_light"), ("car", "car")]),
        ("红绿灯和汽车", [("traffic light", "traffic_light"), ("van", "汽车"), ("bus", "汽车")]),
        ("traffic_light", [("traffic light", "traffic_light")]),
        ("Traffic Light", [("traffic light", "traffic_light")]),
        ("bus", [("bus", "汽车")]),
        ("salt and pepper", [("salt and pepper", "salt and pepper")]),
        ("red car", [("red car", "car")]),
        ("light", [("light", "traffic_light")]),
        ("green traffic light in rain", [("green traffic light in rain", "traffic_light")]),
        ("carpet", [("carpet", "car")]),
        ("狗", [("dog", "car")]),
        ("狗 and 猫", [("dog", "car"), ("cat", "car"), ("kitten", "car")]),
        ("和服", [("和服", "car")]),
        ("ＣＡＲ", [("car", "car")]),
    ],
)
def test_typed_text_gives_prompts_and_a_label_for_each(text: str, pairs: list[tuple[str, str]]) -> None:
    # given a text typed into the prompt control / when it is read
    asked = read_interactive(STREET, typed(text))

    # then
    assert list(zip(asked.prompts, asked.labels, strict=True)) == pairs


def test_what_resembles_no_label_gets_the_selected_one() -> None:
    # given / when / then
    assert read_interactive(STREET, typed("zebra", selected="person")).labels == ("person",)
    assert read_interactive(STREET, typed("red car", selected="person")).labels == ("car",)


@pytest.mark.parametrize(
    "context",
    [
        None,
        {},
        {"result": None},
        {"result": []},
        {"result": ["x", {"from_name": "prompt"}, {"from_name": "prompt", "value": {"text": None}}]},
        typed("", "  ", " . , "),
        typed(1, None),
        {"result": [{"from_name": "comment", "value": {"text": ["red car"]}}]},
    ],
)
def test_without_text_the_prompts_are_the_projects_own(context: dict[str, object] | None) -> None:
    # given a context that holds no prompt / when
    asked = read_interactive(STREET, context)

    # then
    assert asked.prompts == STREET.prompts
    assert asked.labels == ("car", "person", "traffic_light", "汽车", "汽车", "salt and pepper")
    assert asked.score_threshold is None


def test_a_project_without_prompt_control_reads_no_text() -> None:
    # given a region whose from_name is missing, as None would be / when / then
    context = {"result": [{"value": {"text": ["person"]}}]}
    assert read_interactive(project('<Label value="car"/>'), context).prompts == ("car",)


@pytest.mark.parametrize(("number", "threshold"), [(0.4, 0.4), (0, 0), (1, 1), (35, 0.35), (100, 1)])
def test_a_number_is_a_threshold_and_above_one_a_percentage(number: float, threshold: float) -> None:
    assert read_interactive(STREET, typed("car", number=number)).score_threshold == threshold


@pytest.mark.parametrize("number", [-0.1, 101, "0.4", True, float("nan")])
def test_a_number_that_is_no_threshold_is_refused(number: object) -> None:
    with pytest.raises(PromptError, match=r"threshold is .*; it must be a number from 0 to 1"):
        read_interactive(STREET, typed("car", number=number))


def test_too_long_a_text_is_refused_not_cut() -> None:
    with pytest.raises(PromptError, match="has 5001 characters; at most 4000 are read"):
        read_interactive(STREET, typed("x" * 3000, "y" * 2000))


def test_what_was_read_narrows_the_label_map() -> None:
    # given a prompt that two labels of different controls ask for
    other = '<RectangleLabels name="o" toName="image"><Label value="Wheels" prompt="car"/></RectangleLabels>'
    area = '<TextArea name="prompt" toName="image"/>'
    label_map = project('<Label value="car"/><Label value="cat"/>', other + area)

    # when
    asked = read_interactive(label_map, typed("car"))
    narrowed = label_map.narrow(asked.prompts, asked.labels)

    # then both get its boxes
    assert narrowed.prompts == ("car",)
    assert [target.label for target in narrowed.targets_by_prompt[0]] == ["car", "Wheels"]


@pytest.mark.parametrize(
    ("labels", "code", "label"),
    [
        ('<Label value="car"/><Label value="Car" prompt="car"/>', "duplicate", "Car"),
        ('<Label value="car"/><Label value="..."/>', "empty", "..."),
        (f'<Label value="{"word " * 300}"/>', "too_long", "word " * 300),
        ('<Label value="light"/><Label value="traffic light"/>', "contained", "light"),
        ('<Label value="狗"/>', "not_ascii", "狗"),
    ],
)
def test_the_linter_names_the_label_and_the_trouble(labels: str, code: str, label: str) -> None:
    # given / when
    found = [(warning.code, warning.label) for warning in lint_prompts(project(labels))]

    # then
    assert (code, label) in found


def test_good_prompts_get_no_advice() -> None:
    # given words that contain each other only as letters, and one prompt in two controls
    other = '<RectangleLabels name="o" toName="image"><Label value="car"/></RectangleLabels>'
    label_map = project('<Label value="car"/><Label value="carpet"/><Label value="cat"/>', other)

    # when / then
    assert lint_prompts(label_map) == []


def test_a_mapped_chinese_label_gets_no_advice() -> None:
    # given
    control = '<RectangleLabels name="l" toName="i"><Label value="狗"/></RectangleLabels>'
    xml = f'<View><Image name="i" value="$i"/>{control}</View>'

    # when / then
    assert lint_prompts(read_label_config(xml, prompt_map={"狗": "dog"})) == []
    assert "PROMPT_MAP_FILE" in lint_prompts(read_label_config(xml))[0].message


def test_many_labels_are_read_in_chunks_and_the_linter_says_so() -> None:
    # given 200 labels, and a tokenizer that counts three tokens each
    label_map = project("".join(f'<Label value="thing{number}"/>' for number in range(200)))

    # when
    (warning,) = lint_prompts(label_map, count_tokens=lambda prompt: 3)

    # then 802 tokens do not fit 256
    assert (warning.code, warning.label) == ("chunked", "")
    assert "about 802 tokens: each image is read about 4 times" in warning.message
    assert lint_prompts(label_map, limit_tokens=802, count_tokens=lambda prompt: 3) == []


def test_controls_of_another_image_are_mentioned() -> None:
    # given
    more = '<Image name="b" value="$b"/><RectangleLabels name="o" toName="b"><Label value="x"/></RectangleLabels>'

    # when
    (warning,) = lint_prompts(project('<Label value="car"/>', more))

    # then
    assert (warning.code, '"o"' in warning.message) == ("other_image", True)


def test_tokens_are_estimated_by_letters_and_chinese_characters() -> None:
    assert [estimate_tokens(text) for text in ("", "car", "traffic light", "红绿灯", "t-shirt")] == [0, 1, 3, 3, 3]


def test_a_prompt_map_is_lines_or_a_json_object() -> None:
    # given the same map in both forms
    lines = "\ufeff# our labels\n红绿灯 = traffic light\n\n 汽车=car, van \n"
    json_text = '{"红绿灯": "traffic light", "汽车": "car, van"}'

    # when / then
    assert read_prompt_map(lines) == read_prompt_map(json_text) == {"红绿灯": "traffic light", "汽车": "car, van"}
    assert read_prompt_map("") == {}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a = b\nnonsense", "prompt map, line 2: write label = prompt"),
        ("a = b\n = c", "prompt map, line 2: write label = prompt"),
        ("a = ...", "prompt map, line 1: write label = prompt"),
        ("a = b\na = c", 'prompt map, line 2: "a" is given twice'),
        ('{"a": "b",\n"c"}', "prompt map, line 2: Expecting ':' delimiter"),
        ('{"a": 1}', 'prompt map, "a": the prompt must be a text'),
        ('{"a": "b", "a": "c"}', 'prompt map, "a": "a" is given twice'),
        ('{"a": {"b": "c"}}', 'prompt map, "a": the prompt must be a text'),
    ],
)
def test_a_bad_prompt_map_names_the_line(text: str, sentence: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_prompt_map(text)
    assert sentence in caught.value.message

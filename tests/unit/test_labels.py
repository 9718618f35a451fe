"""Label config -> LabelMap, and the version string made of it.

Run by: pytest. Must not import: backend, worker.
Example: pytest tests/unit/test_labels.py
"""

from __future__ import annotations

import pytest

from contract.errors import LabelConfigError
from contract.labels import LIMIT_BYTES, LabelMap, normalize_prompt, read_label_config
from contract.stamps import model_version

STREET = """<View>
  <Image name="image" value="$image"/>
  <RectangleLabels name="label" toName="image">
    <Label value="car" background="red"/>
    <Label value="person" background="blue"/>
    <Label value="红绿灯" alias="traffic_light" background="green"/>
  </RectangleLabels>
  <TextArea name="prompt" toName="image" editable="true" rows="2" maxSubmissions="1"/>
</View>"""


def config(labels: str, *, control: str = "", around: str = "", image: str = 'value="$image"') -> str:
    return (
        f'<View><Image name="image" {image}/>{around}'
        f'<RectangleLabels name="label" toName="image" {control}>{labels}</RectangleLabels></View>'
    )


def version(xml: str, *, score_threshold: float = 0.3, nms_iou: float | None = 0.7) -> str:
    return model_version("tiny-shapes-1", read_label_config(xml), score_threshold=score_threshold, nms_iou=nms_iou)


def labels_of(label_map: LabelMap) -> list[str]:
    return [target.label for target in label_map.targets]


def test_the_recorded_config_gives_prompts_and_the_names_label_studio_accepts() -> None:
    # given the config of the recorded calls / when it is read
    label_map = read_label_config(STREET)

    # then a label with an alias is written by its alias, and looked for by its alias's words
    assert labels_of(label_map) == ["car", "person", "traffic_light"]
    assert label_map.prompts == ("car", "person", "traffic light")
    assert (label_map.image_key, label_map.to_name, label_map.prompt_control) == ("image", "image", "prompt")
    assert label_map.threshold_control is None


@pytest.mark.parametrize(
    ("label", "prompts"),
    [
        ('<Label value="Traffic_Light."/>', ("traffic light",)),
        ('<Label value="car" alias="Motor_Car"/>', ("motor car",)),
        ('<Label value="car" alias="小车"/>', ("car",)),
        ('<Label value="汽车"/>', ("automobile",)),
        ('<Label value="vehicle" alias="汽车"/>', ("automobile",)),
        ('<Label value="汽车" predicted_values="car, Sports_Car ,car"/>', ("car", "sports car")),
        ('<Label value="car" predicted_values="van" prompt="fast car"/>', ("fast car",)),
        ('<Label value="No. 5"/>', ("no 5",)),
        ('<Label value="ＣＡＲ"/>', ("car",)),
        ('<Label value="狗"/>', ("狗",)),
    ],
)
def test_a_prompt_comes_from_prompt_then_predicted_values_then_map_then_alias_then_value(
    label: str, prompts: tuple[str, ...]
) -> None:
    # given one label and a map of Chinese names / when the config is read
    label_map = read_label_config(config(label), prompt_map={"汽车": "automobile"})

    # then the first source that has words is used
    assert label_map.prompts == prompts


def test_labels_may_be_nested_and_repeated_ones_count_once() -> None:
    # given labels inside a View, a label twice, and one without a name
    nested = '<View><Label value="cat" hint="a pet"/></View><Label value="dog"/><Label value="cat"/><Label/>'

    # when / then
    assert labels_of(read_label_config(config(nested))) == ["cat", "dog"]


def test_two_controls_with_the_same_prompt_both_get_the_box_but_one_control_gives_it_to_one_label() -> None:
    # given "car" in two controls, and a second label of the first control that asks for it too
    second = '<RectangleLabels name="other" toName="image"><Label value="Car"/></RectangleLabels>'
    xml = config('<Label value="car"/><Label value="auto" prompt="car"/>', around=second)

    # when
    (targets,) = read_label_config(xml).targets_by_prompt

    # then
    assert [(target.from_name, target.label) for target in targets] == [("other", "Car"), ("label", "car")]


def test_synonyms_of_one_label_share_a_group_for_nms() -> None:
    # given two prompts of one label between two other labels
    labels = '<Label value="cat"/><Label value="car" prompt="car,auto"/><Label value="b"/>'
    label_map = read_label_config(config(labels))

    # when / then
    assert label_map.prompts == ("cat", "car", "auto", "b")
    assert label_map.nms_groups == (0, 1, 1, 2)


def test_controls_of_the_first_image_are_used_and_those_of_another_are_named() -> None:
    # given controls on two images, on a video, and on nothing
    xml = """<View><Image name="left" value="$a.left"/><Image name="right" value="$b"/><Video name="v" value="$v"/>
      <RectangleLabels name="onvideo" toName="v"><Label value="x"/></RectangleLabels>
      <RectangleLabels name="l" toName="v,left"><Label value="cat"/></RectangleLabels>
      <RectangleLabels name="r" toName="right"><Label value="dog"/></RectangleLabels>
      <RectangleLabels name="nowhere" toName="gone"><Label value="y"/></RectangleLabels></View>"""

    # when
    label_map = read_label_config(xml)

    # then
    assert (labels_of(label_map), label_map.to_name, label_map.image_key) == (["cat"], "left", "a.left")
    assert label_map.ignored_controls == ("r",)


def test_the_prompt_control_is_a_smart_textarea_else_one_named_prompt_and_threshold_goes_by_name() -> None:
    # given three text areas and two numbers
    areas = """<TextArea name="comment" toName="image"/><TextArea name="my_prompt" toName="image"/>
      <TextArea name="ask" toName="image" smart="true"/>
      <Number name="count" toName="image"/><Number name="ScoreThreshold" toName="image"/>"""

    # when
    smart = read_label_config(config('<Label value="a"/>', around=areas))
    plain = read_label_config(config('<Label value="a"/>', around=areas.replace(' smart="true"', "")))
    none = read_label_config(config('<Label value="a"/>', around='<TextArea name="comment" toName="image"/>'))

    # then
    assert (smart.prompt_control, smart.threshold_control) == ("ask", "ScoreThreshold")
    assert plain.prompt_control == "my_prompt"
    assert none.prompt_control is None


def test_a_threshold_on_the_label_wins_over_one_on_its_control() -> None:
    # given
    labels = '<Label value="a" model_score_threshold="0.5"/><Label value="b"/>'
    xml = config(labels, control='model_score_threshold=".2"')

    # when
    label_map = read_label_config(xml)

    # then the detector must keep what the lowest of them needs
    assert [target.score_threshold for target in label_map.targets] == [0.5, 0.2]
    assert label_map.lowest_threshold(0.3) == 0.2
    assert read_label_config(config('<Label value="a"/>')).lowest_threshold(0.3) == 0.3


def test_typed_prompts_narrow_the_map_in_every_control_that_has_the_label() -> None:
    # given label "a" in two controls with different limits
    other = '<RectangleLabels name="o" toName="image"><Label value="a" model_score_threshold="0.9"/></RectangleLabels>'
    label_map = read_label_config(config('<Label value="a"/><Label value="b"/>', around=other))

    # when
    narrowed = label_map.narrow(("red thing",), ("a",))
    with_limit = label_map.narrow(("red thing",), ("a",), 0.4)

    # then
    assert narrowed.prompts == ("red thing",)
    assert [(t.from_name, t.score_threshold) for t in narrowed.targets] == [("o", 0.9), ("label", None)]
    assert [t.score_threshold for t in with_limit.targets] == [None, None]


BOMB = '<!DOCTYPE v [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]><View><Label value="&b;"/></View>'
OUTSIDE = '<!DOCTYPE v [<!ENTITY x SYSTEM "file:///etc/passwd">]><View><Label value="&x;"/></View>'


@pytest.mark.parametrize(
    ("xml", "sentence"),
    [
        ("", "label_config is not well-formed XML"),
        ("<View>", "label_config is not well-formed XML"),
        ("<View>\ud800</View>", "label_config is not"),
        (BOMB, "entity declaration, which is refused"),
        (OUTSIDE, "entity declaration, which is refused"),
        ("<View>" + " " * LIMIT_BYTES + "</View>", "is longer than 1048576 bytes"),
        ('<View><Image name="i" value="$i"/><Choices name="c" toName="i"/></View>', "has no RectangleLabels"),
        ('<View><Image name="i" value="$i"/><RectangleLabels toName="i"/></View>', "has no RectangleLabels"),
        (config(""), "has no Label with a name"),
        (config('<Label value="..."/>'), "has no Label with a name"),
        (config('<Label value="a"/>', image='value="http://host/a.png"'), 'write value="$image"'),
        (config('<Label value="a"/>', image='valueList="$pages"'), 'write value="$image"'),
        (config('<Label value="a" model_score_threshold="half"/>'), 'model_score_threshold="half" on "a"'),
        (config('<Label value="a" model_score_threshold="1.5"/>'), "must be a number from 0 to 1"),
        (config('<Label value="a"/>', control='model_score_threshold="nan"'), 'on "label"'),
    ],
)
def test_a_config_that_cannot_be_used_is_refused_in_one_sentence(xml: str, sentence: str) -> None:
    # given a broken, hostile or unsuitable config / when it is read
    with pytest.raises(LabelConfigError) as caught:
        read_label_config(xml)

    # then the sentence says what is wrong
    assert sentence in caught.value.message
    assert caught.value.field == "label_config"


def test_reading_is_cached_and_the_prompt_map_is_part_of_the_key() -> None:
    # given / when / then
    assert read_label_config(STREET) is read_label_config(STREET)
    assert read_label_config(STREET, prompt_map={"车": "car"}) is not read_label_config(STREET)


SAME_VERSION = [
    STREET.replace('background="red"', 'background="pink" hotkey="c"'),
    STREET.replace('<Label value="car" background="red"/>', "").replace("</Rect", '<Label value="car"/></Rect'),
    STREET.replace("editable", "smart"),
    STREET.replace("<View>", '<View><Header value="Hello"/>'),
]
OTHER_VERSION = [
    STREET.replace('value="car"', 'value="bus"'),
    STREET.replace('value="car"', 'value="car" prompt="fast car"'),
    STREET.replace('value="car"', 'value="car" alias="Car"'),
    STREET.replace('value="car"', 'value="car" model_score_threshold="0.4"'),
    STREET.replace('<Label value="person" background="blue"/>', ""),
    STREET.replace('name="label"', 'name="boxes"'),
]


@pytest.mark.parametrize("xml", SAME_VERSION)
def test_what_does_not_change_boxes_keeps_the_version(xml: str) -> None:
    assert version(xml) == version(STREET)


@pytest.mark.parametrize("xml", OTHER_VERSION)
def test_what_changes_boxes_or_their_names_changes_the_version(xml: str) -> None:
    assert version(xml) != version(STREET)


def test_the_version_is_legible_and_holds_model_and_thresholds() -> None:
    # given / when
    plain = version(STREET)

    # then
    assert plain.startswith("tiny-shapes-1.")
    assert len(plain) == len("tiny-shapes-1.") + 8
    assert len({plain, version(STREET, score_threshold=0.4), version(STREET, nms_iou=None)}) == 3


def test_the_version_does_not_change_between_releases() -> None:
    # given a version that is stored in people's Label Studio / then asking again would predict every task again
    assert version(STREET) == "tiny-shapes-1.3856e6c4"


@pytest.mark.parametrize("text", ["  Red__Circle. ", "red\ncircle", "RED CIRCLE。", "red circle . "])
def test_normalizing_gives_plain_words(text: str) -> None:
    assert normalize_prompt(text) == "red circle"


@pytest.mark.parametrize(
    ("xml", "problem"),
    [
        ("<View>" * 101 + "</View>" * 101, "more than 100 levels deep"),
        ("<View>" * 60_000 + "</View>" * 60_000, "more than 100 levels deep"),
        ("<View><Image name='i' value='$image'/>" + "<RectangleLabels name='r' toName='i'/>" * 101 + "</View>",
         "has 101 RectangleLabels; at most 100"),
        ("<View><Image name='i' value='$image'/><RectangleLabels name='r' toName='i'>"
         + "".join(f"<Label value='w{n}'/>" for n in range(5001)) + "</RectangleLabels></View>",
         "asks for 5001 things"),
    ],
)  # fmt: skip
def test_what_would_take_minutes_to_read_is_refused(xml: str, problem: str) -> None:
    with pytest.raises(LabelConfigError, match=problem):
        read_label_config(xml)


def test_model_score_says_what_a_predictions_score_means_and_is_part_of_the_version() -> None:
    # given / when
    car = '<Label value="car"/>'
    plain, confidence = config(car), config(car, control='model_score="confidence"')
    uncertainty = config(car, control='model_score="uncertainty"')

    # then stored scores of two meanings never share a version
    assert [read_label_config(xml).score for xml in (plain, uncertainty)] == ["confidence", "uncertainty"]
    assert version(plain) == version(confidence) != version(uncertainty)
    with pytest.raises(LabelConfigError, match="write confidence or uncertainty"):
        read_label_config(config(car, control='model_score="entropy"'))

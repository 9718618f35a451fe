"""Our reading of label configs against Label Studio's own: contract.labels and label_studio_sdk must agree.

Run by: pytest. Must not import: backend, worker.
The API stays thin without the SDK (pandas, OpenCV, 538 MB); this test is what lets it.
Example: pytest tests/flow/test_labels_sdk.py
"""

from __future__ import annotations

import pytest
from label_studio_sdk.label_interface import LabelInterface

from contract.labels import LabelMap, read_label_config
from contract.regions import DetectedBox, boxes_to_result, prediction_score

IMAGE = '<Image name="image" value="$image"/>'
CONFIGS = {
    "plain": f'<View>{IMAGE}<RectangleLabels name="label" toName="image"><Label value="car"/></RectangleLabels></View>',
    "chinese with alias": f"""<View>{IMAGE}<RectangleLabels name="label" toName="image">
        <Label value="红绿灯" alias="traffic_light"/><Label value="汽车"/></RectangleLabels></View>""",
    "mmdet example": f"""<View>{IMAGE}<RectangleLabels name="objects" toName="image">
        <Label value="cat" background="#D4380D" predicted_values="cat"/>
        <Label value="vehicle" predicted_values="car,bus,truck"/></RectangleLabels></View>""",
    "control before image": """<View><RectangleLabels name="tag" toName="img" showInline="true">
        <Label value="Plane" background="green"/><Label value="Car" background="blue"/></RectangleLabels>
        <Image name="img" value="$url" zoom="true"/></View>""",
    "nested labels": f"""<View><Header value="Pick"/>{IMAGE}<RectangleLabels name="label" toName="image">
        <View style="display:flex"><Label value="a b" hint="two words"/><View><Label value="c_d"/></View></View>
        </RectangleLabels></View>""",
    "two controls": f"""<View>{IMAGE}
        <RectangleLabels name="big" toName="image"><Label value="ship"/><Label value="house"/></RectangleLabels>
        <RectangleLabels name="small" toName="image"><Label value="ship" alias="boat"/></RectangleLabels></View>""",
    "beside other controls": f"""<View>{IMAGE}<Choices name="quality" toName="image"><Choice value="good"/></Choices>
        <BrushLabels name="brush" toName="image"><Label value="mud"/></BrushLabels>
        <RectangleLabels name="label" toName="image"><Label value="cow"/></RectangleLabels>
        <TextArea name="prompt" toName="image" smart="true"/><Number name="threshold" toName="image"/></View>""",
    "repeated and nameless": f"""<View>{IMAGE}<RectangleLabels name="label" toName="image">
        <Label value="dog"/><Label value="dog" background="red"/><Label background="blue"/><Label alias="pup"/>
        </RectangleLabels></View>""",
    "empty alias": f"""<View>{IMAGE}<RectangleLabels name="label" toName="image"><Label value="dog" alias=""/>
        <Label value="&lt;b&gt; &amp; 'q'"/></RectangleLabels></View>""",
    "two images": """<View><Image name="left" value="$left"/><Image name="right" value="$right"/>
        <RectangleLabels name="l" toName="left"><Label value="cat"/></RectangleLabels>
        <RectangleLabels name="r" toName="right"><Label value="cat"/></RectangleLabels></View>""",
    "comment and accents": f"""<View><!-- <Label value="no"/> -->{IMAGE}
        <RectangleLabels name="label" toName="image"><Label value="é"/></RectangleLabels></View>""",
}


def one_box_a_prompt(label_map: LabelMap) -> list[DetectedBox]:
    return [DetectedBox(10 + i, 20, 500, 400.5, 0.3 + i / 10, i) for i in range(len(label_map.prompts))]


@pytest.mark.parametrize("name", CONFIGS)
def test_labels_controls_and_image_are_what_the_sdk_reads(name: str) -> None:
    # given one config, read by both
    ours = read_label_config(CONFIGS[name])
    theirs = LabelInterface(CONFIGS[name])

    # when
    controls = {target.from_name for target in ours.targets}

    # then
    for control in controls:
        labels = [target.label for target in ours.targets if target.from_name == control]
        assert labels == theirs.get_control(control).labels
        assert ours.to_name in theirs.get_control(control).to_name
    assert controls | set(ours.ignored_controls) == {
        tag.name for tag in theirs.controls if tag.tag == "RectangleLabels"
    }
    assert theirs.get_object(ours.to_name).value_name == ours.image_key


@pytest.mark.parametrize("name", CONFIGS)
def test_label_studio_accepts_every_box_we_make(name: str) -> None:
    # given a box of every prompt, in a project with this config
    label_map = read_label_config(CONFIGS[name])
    result = boxes_to_result(label_map, one_box_a_prompt(label_map), width_px=640, height_px=480)

    # when Label Studio checks them as its bulk endpoint does
    prediction = {"result": result, "score": prediction_score(result), "model_version": "tiny-shapes-1.00000000"}
    errors = LabelInterface(CONFIGS[name]).validate_prediction(prediction, return_errors=True)

    # then
    assert errors == []
    assert len(result) >= len(label_map.targets)


def test_the_check_would_notice_a_label_written_by_its_value() -> None:
    # given a box called by the label's value, where Label Studio wants the alias
    label_map = read_label_config(CONFIGS["chinese with alias"])
    result = boxes_to_result(label_map, one_box_a_prompt(label_map), width_px=640, height_px=480)
    result[-1]["value"]["rectanglelabels"] = ["红绿灯"]

    # when / then
    assert LabelInterface(CONFIGS["chinese with alias"]).validate_prediction({"result": result}) is False

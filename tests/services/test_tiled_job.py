"""A project that asks for tiles in its label config gets them from a real worker, under a model version of its own.

Called by: pytest. Must not import: backend, worker.
Example: .venv/bin/python -m pytest tests/services/test_tiled_job.py
"""

import io

from PIL import Image

from groundcrew.label_studio.client import ImageFile
from groundcrew.zoo.samples import make_large
from groundcrew.zoo.scenes import COLOURS
from tests.services.waiting import wait_for_predictions

SHAPES = ("circle", "square", "triangle", "star")
LABELS = "".join(f'<Label value="{colour} {shape}"/>' for colour in COLOURS for shape in SHAPES)


def large_file() -> ImageFile:
    """1280 x 1024 pixels, shapes of 24 to 110."""
    content = io.BytesIO()
    Image.fromarray(make_large(0)).save(content, "PNG")
    return ImageFile("large.png", content.getvalue())


def config(attribute: str) -> str:
    return (f'<View><Image name="image" value="$image"/><RectangleLabels name="label" toName="image" {attribute}>'
            f"{LABELS}</RectangleLabels></View>")  # fmt: skip


def test_tiles_are_looked_at_when_the_label_config_says_so(label_studio, make_project, crew):
    found = {}
    for attribute in ('tile="0"', 'tile="300" tile_overlap="0.4"'):
        project = make_project(config(attribute))
        label_studio.connect_backend(project, crew.url, title="groundcrew")
        label_studio.upload_images(project, [large_file()])
        (found[attribute],) = wait_for_predictions(label_studio, project, 1)

    whole, tiled = found.values()
    assert len(tiled.result) > 2 * len(whole.result), (len(tiled.result), len(whole.result))
    assert tiled.model_version != whole.model_version
    right_pct = max(region["value"]["x"] for region in tiled.result)
    assert right_pct > 50, "boxes are placed in the image, not in a tile"

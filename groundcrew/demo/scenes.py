"""The demo's images with their known boxes, and the label config that asks for them.

Called by: groundcrew/demo/run.py and tests/services.
Must not import: backend, worker, torch.
Example: images = make_images(24); images[0].file.name  # "scene-00.png"
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import quoteattr  # nosec B406  # writes, never parses

from PIL import Image

from groundcrew.boxes import LabelledBox
from groundcrew.label_studio.client import ImageFile
from groundcrew.zoo.scenes import COLOURS, Pair, Scene, make_scene

#: What the demo's project asks for. Training showed the first eight; the last four it never showed and never named.
PAIRS: tuple[Pair, ...] = (
    ("red", "circle"), ("blue", "square"), ("yellow", "star"), ("green", "triangle"),
    ("pink", "heart"), ("white", "ring"), ("orange", "arrow"), ("cyan", "diamond"),
    ("blue", "star"), ("brown", "circle"), ("black", "triangle"), ("green", "square"),
)  # fmt: skip
_SIZES_PX = ((384, 512), (480, 480), (512, 384))  # height, width
_OBJECTS = (2, 5)
_FIRST_SEED = 2026


@dataclass(frozen=True)
class DemoImage:
    """One generated image and what is in it."""

    file: ImageFile
    picture: Image.Image
    boxes: tuple[LabelledBox, ...]


def make_images(count: int, *, first_seed: int = _FIRST_SEED) -> list[DemoImage]:
    """The same images for the same seed, in three sizes, with two to five objects each."""
    return [
        _as_image(number, make_scene(first_seed + number, size_px=_size_px(number), pairs=PAIRS, counts=_OBJECTS))
        for number in range(count)
    ]


def make_label_config(pairs: Sequence[Pair] = PAIRS) -> str:
    """One rectangle label a pair, and a prompt field for whatever else should be found."""
    labels = "\n".join(
        f"    <Label value={quoteattr(f'{colour} {shape}')} background={quoteattr(_hex(colour))}/>"
        for colour, shape in pairs
    )
    return f"""<View>
  <TextArea name="prompt" toName="image" smart="true" editable="true" rows="1" maxSubmissions="1"
            placeholder="With Auto-Annotation on: what should be found? For example: red circle"/>
  <Image name="image" value="$image"/>
  <RectangleLabels name="label" toName="image" smart="true">
{labels}
  </RectangleLabels>
</View>"""


def _as_image(number: int, scene: Scene) -> DemoImage:
    picture = Image.fromarray(scene.image)
    content = io.BytesIO()
    picture.save(content, "png")
    boxes = tuple(
        LabelledBox(name, (left, top, right, bottom))
        for name, (left, top, right, bottom) in zip(scene.names, scene.boxes_xyxy_px.tolist(), strict=True)
    )
    return DemoImage(ImageFile(f"scene-{number:02d}.png", content.getvalue()), picture, boxes)


def _size_px(number: int) -> tuple[int, int]:
    return _SIZES_PX[number % len(_SIZES_PX)]


def _hex(colour: str) -> str:
    return "#{:02x}{:02x}{:02x}".format(*COLOURS[colour])

"""The names of mmdet that we use, imported in the one order that works.

Called by the other modules of this folder that need mmdet; the only one that imports it.
Must not import backend, groundcrew or other detectors. Importing it takes seconds: do so when a model is first used.
Example: `from worker.detectors.stack import GroundingDINO, build_detector`.
"""

import warnings
from collections.abc import Callable

from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope

from worker.detectors import deform_gpu

deform_gpu.install()  # mmdet imports mmcv.ops nearly everywhere

with warnings.catch_warnings(action="ignore"):  # mmdet imports names of mmcv from where they used to be
    from mmcv.ops import MultiScaleDeformableAttention
    from mmdet.models.backbones import SwinTransformer
    from mmdet.models.detectors import GroundingDINO
    from mmdet.models.detectors.grounding_dino import clean_label_name
    from mmdet.models.layers import SinePositionalEncoding
    from mmdet.models.layers.transformer.grounding_dino_layers import (
        GroundingDinoTransformerDecoder,
        GroundingDinoTransformerDecoderLayer,
        GroundingDinoTransformerEncoder,
    )
    from mmdet.models.layers.transformer.utils import (
        coordinate_to_encoding,
        get_text_sine_pos_embed,
        inverse_sigmoid,
    )
    from mmdet.models.necks import ChannelMapper
    from mmdet.registry import MODELS, TRANSFORMS
    from mmdet.structures import DetDataSample
    from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
    from mmdet.utils import get_test_pipeline_cfg

# Said on every first prediction, about code of mmdet and mmcv that is as intended.
warnings.filterwarnings("ignore", "torch.meshgrid|position encoding of key", UserWarning)

__all__ = [
    "ChannelMapper",
    "DetDataSample",
    "GroundingDINO",
    "GroundingDinoTransformerDecoder",
    "GroundingDinoTransformerDecoderLayer",
    "GroundingDinoTransformerEncoder",
    "MultiScaleDeformableAttention",
    "SinePositionalEncoding",
    "SwinTransformer",
    "bbox_cxcywh_to_xyxy",
    "build_detector",
    "build_transform",
    "clean_label_name",
    "coordinate_to_encoding",
    "get_test_pipeline_cfg",
    "get_text_sine_pos_embed",
    "inverse_sigmoid",
]


def build_detector(section: ConfigDict) -> GroundingDINO:
    """The model that the `model` section of a config describes, its weights not yet loaded."""
    with DefaultScope.overwrite_default_scope("mmdet"):  # where mmengine looks for a class named without its package
        return MODELS.build(section)


def build_transform(step: ConfigDict) -> Callable[[dict[str, object]], dict[str, object]]:
    """One step of a pipeline."""
    with DefaultScope.overwrite_default_scope("mmdet"):
        return TRANSFORMS.build(step)

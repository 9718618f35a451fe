"""Which models the fast path computes as mmdet does; for any other the plain path stays.

Called by model.py and by `mmgdino.py` of the parent folder. Must not import backend or groundcrew.
A config may name classes of its own: what is not exactly the module that was rewritten here is not guessed at.
Example: `why_not(model)` is "" or a reason such as "pad_to_max is on".
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from worker.detectors.stack import (
    ChannelMapper,
    GroundingDINO,
    GroundingDinoTransformerDecoder,
    GroundingDinoTransformerDecoderLayer,
    GroundingDinoTransformerEncoder,
    MultiScaleDeformableAttention,
    SinePositionalEncoding,
    SwinTransformer,
)


def why_not(model: GroundingDINO) -> str:
    """The first reason against the fast encoder and decoder; empty if there is none."""
    return next(_reasons(model), "")


def why_not_swin(model: GroundingDINO) -> str:
    """The first reason against the fast backbone and neck, which mmdet's modules can stand in for."""
    return next(_reasons_of_backbone(model), "")


def _reasons(model: GroundingDINO) -> Iterator[str]:
    encoder, decoder = model.encoder, model.decoder
    if type(encoder) is not GroundingDinoTransformerEncoder or not encoder.fusion_layers or not encoder.text_layers:
        yield f"the encoder is a {type(encoder).__name__}"
        return
    if type(decoder) is not GroundingDinoTransformerDecoder:
        yield f"the decoder is a {type(decoder).__name__}"
        return
    if model.language_model.pad_to_max:
        yield "pad_to_max is on"
    if type(model.positional_encoding) is not SinePositionalEncoding:
        yield f"the positional encoding is a {type(model.positional_encoding).__name__}"
    if any(type(layer) is not GroundingDinoTransformerDecoderLayer for layer in decoder.layers):
        yield "a decoder layer is of another class"
    attentions = [layer.self_attn for layer in encoder.layers] + [layer.cross_attn for layer in decoder.layers]
    if any(type(attention) is not MultiScaleDeformableAttention for attention in attentions):
        yield "an attention is not multi-scale deformable"
    yield from _reasons_of_feed_forward([*encoder.layers, *decoder.layers], nn.ReLU)


def _reasons_of_feed_forward(layers: list[nn.Module], activation: type[nn.Module]) -> Iterator[str]:
    for layer in layers:
        ffn = layer.ffn
        if ffn.num_fcs != 2 or not ffn.add_identity or not isinstance(ffn.gamma2, nn.Identity):
            yield "a feed-forward network has another form"
        elif type(ffn.layers[0][1]) is not activation:
            yield f"a feed-forward network has the activation {type(ffn.layers[0][1]).__name__}"


def _reasons_of_backbone(model: GroundingDINO) -> Iterator[str]:
    backbone, neck = model.backbone, model.neck
    if type(backbone) is not SwinTransformer or backbone.use_abs_pos_embed:
        yield f"the backbone is a {type(backbone).__name__}"
        return
    if type(neck) is not ChannelMapper:
        yield f"the neck is a {type(neck).__name__}"
        return
    for convolution in [*neck.convs, *(neck.extra_convs or ())]:
        if convolution.norm_name != "gn" or convolution.with_activation or convolution.order != ("conv", "norm", "act"):
            yield "the neck has another norm or an activation"
    if any(convolution.conv.kernel_size != (1, 1) for convolution in neck.convs):
        yield "the neck has larger kernels"
    yield from _reasons_of_feed_forward([block for stage in backbone.stages for block in stage.blocks], nn.GELU)

"""Turns prompts into what the transformer reads: captions that fit, their features, and which token means which prompt.

Called by `mmgdino.py`. Must not import backend, groundcrew or other detectors.
A caption is "red circle. blue square. "; mmdet's own functions build and tokenize it. A score of a prompt is the mean
over its tokens, so a product with `token_weights` gives all scores of a caption at once.
Example: `captions = encode_prompts(model, ("red circle", "blue square"), limit_tokens=256)`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from contract.errors import PromptError
from worker.detectors.chunks import split_prompts
from worker.detectors.stack import GroundingDINO, clean_label_name

START_AND_END_TOKENS = 2


@dataclass(frozen=True, eq=False)
class Caption:
    """One text that fits the model, for a single image; `expand` repeats it for a batch."""

    embedded: Tensor  # (1, T, C) text features
    masks: Tensor  # (1, T, T) True where one token may attend to another: within one prompt
    position_ids: Tensor  # (1, T) counted within one prompt
    text_token_mask: Tensor  # (1, T) True for tokens, False for padding
    token_weights: Tensor  # (P, max_text_len) each row spreads a weight of 1 over the tokens of one prompt
    prompt_ids: Tensor  # (P,) position of each prompt in the whole list

    def expand(self, batch: int) -> dict[str, Tensor]:
        """The `text_dict` of `GroundingDINO.forward_transformer`, the same text for each image."""
        names = ("embedded", "masks", "position_ids", "text_token_mask")
        return {name: getattr(self, name).expand(batch, *getattr(self, name).shape[1:]) for name in names}


def clean_prompt(prompt: str) -> str:
    """The text as the model saw labels in training: no underscores, no remark in parentheses, no separators.

    A "." or "?" inside a name would end the phrase there, so it becomes a space.

    Raises:
        PromptError: nothing is left.
    """
    text = " ".join(prompt.split())
    cleaned = _join_words(clean_label_name(text)) or _join_words(re.sub("[()]", " ", text))
    if not cleaned:
        raise PromptError(f"{prompt!r} holds no word that the model could look for")
    return cleaned


def _join_words(text: str) -> str:
    return " ".join(re.sub("[.?_]", " ", text).split())


def text_limit(model: GroundingDINO) -> int:
    """Tokens that one caption may have, start and end token included."""
    return min(model.language_model.max_tokens, model.bbox_head.max_text_len)


def encode_prompts(model: GroundingDINO, names: tuple[str, ...], limit_tokens: int) -> list[Caption]:
    """Features of all names, in as few captions as fit.

    Args:
        model: in evaluation mode.
        names: cleaned, without duplicates.
        limit_tokens: of one caption, at most `text_limit(model)`.

    Raises:
        PromptError: a name is too long, or consists of nothing that the tokenizer knows as text.
    """
    tokenizer = model.language_model.tokenizer

    def count_tokens(name: str) -> int:
        return len(tokenizer(f"{name}. ", add_special_tokens=False).input_ids)

    pieces = split_prompts(names, count_tokens, limit_tokens - START_AND_END_TOKENS)
    return [_encode_caption(model, [names[i] for i in piece], piece, limit_tokens) for piece in pieces]


def _encode_caption(model: GroundingDINO, names: list[str], prompt_ids: list[int], limit_tokens: int) -> Caption:
    tokenized, text, spans, _ = model.get_tokens_and_prompts(names, custom_entities=True)
    tokens = int(tokenized.attention_mask.sum())
    if tokens > limit_tokens:  # a tokenizer whose tokens reach across ". ": better an error than a cut text
        raise PromptError(f"{names[0]!r} and those after it take {tokens} tokens together; the limit is {limit_tokens}")
    features = model.language_model([text])
    _, positive_map = model.get_positive_map(tokenized, spans)
    device = features["embedded"].device
    return Caption(
        embedded=model.text_feat_map(features["embedded"]),
        masks=features["masks"],
        position_ids=features["position_ids"],
        text_token_mask=features["text_token_mask"],
        token_weights=_mean_weights(positive_map, names).to(device),
        prompt_ids=torch.tensor(prompt_ids, device=device),
    )


def _mean_weights(positive_map: Tensor, names: list[str]) -> Tensor:
    """Rows that sum to exactly 1; a name without tokens would score NaN in mmdet."""
    used = (positive_map > 0).float()  # (P, max_text_len)
    counts = used.sum(1, keepdim=True)
    for name, count in zip(names, counts, strict=True):
        if not count:
            raise PromptError(f"{name!r} holds no word that the model could look for")
    return used / counts

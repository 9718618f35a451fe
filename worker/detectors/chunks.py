"""Cuts a long list of prompts into pieces that fit the model's text length.

Called by `prompts.py`. Must not import torch, mmdet or numpy: it is arithmetic on counts.
mmdet cuts after a fixed number of names, whatever their length; counting tokens wastes nothing and truncates nothing.
Example: `split_prompts(["cat", "polar bear"], count_tokens, limit_tokens=254)` -> `[[0, 1]]`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from contract.errors import PromptError


def split_prompts(prompts: Sequence[str], count_tokens: Callable[[str], int], limit_tokens: int) -> list[list[int]]:
    """Positions of the prompts, in order, in the fewest pieces that keep that order.

    Args:
        prompts: the names to look for.
        count_tokens: tokens that one prompt takes in the caption, its separator included.
        limit_tokens: tokens that fit in one caption, the start and end tokens not counted.

    Raises:
        PromptError: one prompt alone exceeds the limit.
    """
    pieces: list[list[int]] = []
    free_tokens = 0
    for position, prompt in enumerate(prompts):
        tokens = count_tokens(prompt)
        if tokens > limit_tokens:
            raise PromptError(f"{_shorten(prompt)!r} takes {tokens} tokens; the model reads at most {limit_tokens}")
        if tokens > free_tokens or not pieces:
            pieces.append([])
            free_tokens = limit_tokens
        pieces[-1].append(position)
        free_tokens -= tokens
    return pieces


def _shorten(prompt: str, limit: int = 60) -> str:
    return prompt if len(prompt) <= limit else prompt[:limit] + "..."

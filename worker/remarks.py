"""What a person should hear about the data of a fine-tuning, in a few sentences.

Called by: worker.dataset. Must not import: anything of ours but worker.splits.
A change here wants one in backend/ui/translations, too; tests/unit/test_phrases.py says which.
Example: `warn("car", ["val"])` -> '"car" is measured but not learned: annotate more images that show it'
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from worker.splits import Split

MOST_WARNINGS = 3
NOT_LEARNED = "no box of"  #: how the gravest warnings begin


def warn(label: str, splits: Sequence[Split]) -> str | None:
    """What keeps a label from being learned or measured, if its boxes are in these splits only."""
    if not splits:
        return f'{NOT_LEARNED} "{label}": it is not learned; annotate images that show it'
    if splits == ["train"]:
        return f'"{label}" is learned but not measured: annotate more images that show it'
    if splits == ["val"]:
        return f'"{label}" is measured but not learned: annotate more images that show it'
    return None


def summarise(used: int, reasons: Sequence[str], warnings: Sequence[str]) -> list[str]:
    """The commonest reason for leaving a task out, and the gravest warnings.

    Args:
        used: annotated tasks that are used.
        reasons: of each annotated task that is not.
    """
    left_out = [
        f"{len(reasons)} of {used + len(reasons)} annotated tasks were left out, {count} of them because: {reason}"
        for reason, count in Counter(reasons).most_common(1)
    ]
    gravest_first = sorted(warnings, key=lambda sentence: not sentence.startswith(NOT_LEARNED))
    more = len(warnings) - MOST_WARNINGS
    others = [f"{more} more labels lack boxes to learn from, or to measure with"] if more > 0 else []
    return [*left_out, *gravest_first[:MOST_WARNINGS], *others]

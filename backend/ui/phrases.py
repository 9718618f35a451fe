"""The details of a reason in the page's language: a worker's English sentence, put again with the same values in it.

Called by: backend.ui.words. Pure. Must not import: redis, Flask.
Records keep the English sentence, which logs, programs and the command line show, too. tests/sentences.py reads all of
them out of the code. Example: `Phrases({"c": {"{n} are": "{n} 个"}}).put("c", "3 are")` -> "3 个"
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from string import Formatter

SHARED = "parts"  #: section of clauses that stand in the place of a value, such as why most tasks were left out
BLANKS = {"count": r"\d+"}  #: what fits a {name}; any text fits the others
FULL_STOP = "。"  #: ends each sentence, but no clause
MOST_DEPTH = 3  #: clauses within clauses; ours have two, but a value may hold anything
MOST_CHARACTERS = 1000  #: a longer sentence stays English: matching takes time
_Form = tuple[re.Pattern[str], str]


class Phrases:
    """Sentences of one language: code -> {English with {names}: the same in that language}."""

    def __init__(self, sections: Mapping[str, Mapping[str, str]]) -> None:
        self._forms = {code: _compile(section) for code, section in sections.items()}
        clauses = [form for forms in self._forms.values() for form in forms]
        self._clauses = [*self._forms.get(SHARED, ()), *clauses]
        self.put = lru_cache(maxsize=4096)(self._put)

    def _put(self, code: str, english: str) -> str | None:
        """None for a sentence that nobody wrote; "" for one that says no more than its code does."""
        return self._find(self._forms.get(code, ()), english, 0) if len(english) <= MOST_CHARACTERS else None

    def _find(self, forms: Sequence[_Form], english: str, depth: int) -> str | None:
        for pattern, text in forms:
            if found := pattern.fullmatch(english):
                return text.format(**{name: self._value(value, depth) for name, value in found.groupdict().items()})
        return None

    def _value(self, english: str, depth: int) -> str:
        """A value as it is, unless it is a clause or sentence of ours, which then ends within the one around it."""
        clause = self._find(self._clauses, english, depth + 1) if depth < MOST_DEPTH else None
        return english if clause is None else clause.removesuffix(FULL_STOP)


def _compile(section: Mapping[str, str]) -> tuple[_Form, ...]:
    """Those with the most words of their own first: the others may fit the same sentence by chance."""
    ordered = sorted(section.items(), key=lambda pair: -sum(len(words) for words, *_ in Formatter().parse(pair[0])))
    return tuple((_pattern(english), text) for english, text in ordered)


def _pattern(english: str) -> re.Pattern[str]:
    parts = (re.escape(words) + (f"(?P<{name}>{BLANKS.get(name, '.*?')})" if name else "")
             for words, name, *_ in Formatter().parse(english))  # fmt: skip
    return re.compile("".join(parts), re.DOTALL)

"""The page's words in English and Chinese, and how it writes times and numbers.

Called by: backend.pages, the templates. Pure, but for reading the dictionaries once. Must not import: redis.
A dictionary is a JSON file of key -> text; a test compares their keys. Reasons come from workers in English; two more
say in Chinese what each of their codes means, and each sentence. Example: `Words("zh")("live")` -> "实时"
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from backend.ui.phrases import Phrases

LANGUAGES = {"en": "English", "zh": "中文"}
DEFAULT = "en"
EXPLAINED = ("zh",)  #: languages that need the codes explained: reasons are written in English
_SECTIONS = {"warning": "warning", "verdict": "decision", "decision": "decision"}  #: of phrases, by how a code begins
_FOLDER = Path(__file__).parent / "translations"


@lru_cache
def load(language: str) -> dict[str, Any]:
    """The dictionary of one of LANGUAGES, `zh-reasons`, or `zh-phrases`, whose values are dictionaries."""
    return dict(json.loads((_FOLDER / f"{language}.json").read_text(encoding="utf-8")))


@lru_cache
def _phrases(language: str) -> Phrases:
    return Phrases(load(f"{language}-phrases") if language in EXPLAINED else {})


class Words:
    """Texts of one language."""

    def __init__(self, language: str) -> None:
        self.language = language
        self.tag = {"zh": "zh-CN"}.get(language, language)  #: for <html lang>
        self._texts = load(language)
        self._reasons = load(f"{language}-reasons") if language in EXPLAINED else {}
        self._phrases = _phrases(language)

    def __call__(self, key: str, **values: object) -> str:
        """The text of a key, its {names} filled in. Raises KeyError for a key that nobody wrote."""
        return str(self._texts[key]).format(**values)

    def maybe(self, key: str, otherwise: str) -> str:
        """For keys made of data, such as a state or a stage that a newer worker invents."""
        return str(self._texts.get(key, otherwise))

    def why(self, code: str) -> str:
        """What a code of contract/errors.py, `warning_<code>` or a card's `verdict_<verdict>` means and what to do;
        "" where the reason itself says so in this language, and for a code that a newer worker invents."""
        return str(self._reasons.get(code, ""))

    def detail(self, code: str, english: str) -> str | None:
        """A reason in this language; "" where it says no more than why() does, None where only English has it."""
        section = next((name for name in _SECTIONS if code.startswith(f"{name}_")), code)
        return self._phrases.put(_SECTIONS.get(section, section), english)

    def duration(self, seconds: float) -> str:
        """12 s, 3 min, 2 h 5 min, 4 days: as exact as anyone needs."""
        if seconds < 60:
            return self("seconds", n=round(seconds))
        if seconds < 3600:
            return self("minutes", n=round(seconds / 60))
        if seconds < 48 * 3600:
            return self("hours", h=int(seconds // 3600), m=int(seconds % 3600 // 60))
        return self("days", n=round(seconds / 86400))

    @staticmethod
    def number(value: float) -> str:
        """12345 -> 12 345, with a narrow space that both languages read."""
        return f"{value:,}".replace(",", "\u202f")

    @staticmethod
    def percent(share: float | None) -> str:
        return "–" if share is None else f"{100 * share:.0f}\u202f%"

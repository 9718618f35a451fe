"""Reads PROMPT_MAP_FILE: which English prompt stands for a label of any language.

Called by: backend.models, worker.app, groundcrew. Must not import: Flask, torch.
Example: `load_prompt_map(settings)` -> {"红绿灯": "traffic light"}
"""

from __future__ import annotations

from contract.errors import SettingsError
from contract.prompts import read_prompt_map
from contract.settings import Settings


def load_prompt_map(settings: Settings) -> dict[str, str]:
    """The file's content, empty without one. Raises SettingsError naming the line, or why it cannot be read."""
    if settings.prompt_map_file is None:
        return {}
    try:
        return read_prompt_map(settings.prompt_map_file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"PROMPT_MAP_FILE: {settings.prompt_map_file} cannot be read: {error}") from None

"""Texts in the conditions that Lance reads."""

from __future__ import annotations


def literal(text: str) -> str:
    """A text as SQL has it."""
    return "'" + text.replace("'", "''") + "'"

"""What PyPI shows of the README: links to files of the checkout lead nowhere there, so each becomes its text and its path."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class LongDescription(MetadataHookInterface):
    """Gives the field `readme`."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Called by hatchling for every wheel and sdist."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": plain_links(text)}


def plain_links(text: str) -> str:
    """`[guide](docs/guide.md)` → guide (`docs/guide.md`); addresses and links within the page stay as they are."""

    def plain(match: re.Match[str]) -> str:
        words, path = match.groups()
        return f"`{path}`" if words.strip("`") == path else f"{words} (`{path}`)"

    return re.sub(r"\[([^\]\n]+)\]\((?![a-z]+:|#)([^)\s]+)\)", plain, text)

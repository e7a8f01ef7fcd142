"""A language model that somebody else made: a GGUF file, or a folder of transformers, answered like one of our own.

It has no card of ours, since nothing here measured it: its card says where it is from and nothing of its quality.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gyral.errors import InputError
from gyral.model import gguf, hf
from gyral.model.chat import chat_of
from gyral.model.family import Route
from gyral.model.lm import Reader
from gyral.model.lm_routes import routes_of


class PackagedLm(Reader):
    """A language model of a file or a folder.

    Parameters
    ----------
    path : a GGUF file, or a folder with `config.json` and `model.safetensors`.
    name : that it goes by, `name@version`.
    source : where it is from, for its card.
    """

    def __init__(self, path: Path, name: str, source: str) -> None:
        if path.is_file():
            super().__init__(*gguf.read(path))
        else:
            super().__init__(hf.read(path), chat_of(path))
        self.name = name
        self.card: dict[str, Any] = {"family": "lm", "model": name, "source": source}
        self.routes: Mapping[str, Route] = routes_of(self)


def model_in(folder: Path) -> Path:
    """The one model that lies below a folder: a GGUF file, or a folder of transformers.

    Raises
    ------
    InputError : there is none, or several.
    """
    found = sorted(folder.rglob("*.gguf")) or sorted(path.parent for path in folder.rglob(hf.CONFIG))
    if len(found) == 1:
        return found[0]
    listed = ", ".join(f"`{path.relative_to(folder)}`" for path in found[:8])
    hint = (
        "name one: `pip:NAME==VERSION!/PATH`" if found else "it must hold a `.gguf`, or `config.json` and `model.safetensors`"
    )
    raise InputError(
        f"there are {len(found)} language models" if found else "there is no model", where=str(folder), why=listed, hint=hint
    )

"""A folder that the library transformers reads: safetensors, `config.json`, `tokenizer.json` (`gyral.model.hf`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gyral.compress.export.base import Reading, Source, versions_of

if TYPE_CHECKING:
    from gyral.model.programs import Program


class Hf:
    """The format `hf`."""

    tolerance = 1e-5

    def write(self, source: Source, folder: Path) -> list[str]:
        """As `gyral show MODEL --export` does."""
        from gyral.model import chat, hf

        found = source.decoder("hf")
        hf.write(found, folder)
        chat.write(chat.chat_of(source.folder), folder, found.end)
        return []

    def read(self, program: Program, folder: Path) -> Reading:
        """By this project's reader of such folders."""
        from gyral import __version__
        from gyral.model import hf
        from gyral.model.programs import Foretold

        again = program._replace(module=Foretold(hf.read(folder).build()))
        return Reading(f"gyral {__version__}", [again.run(sample) for sample in program.samples])

    def versions(self) -> Mapping[str, str]:
        return versions_of("gyral", "torch", "safetensors")


HF = Hf()

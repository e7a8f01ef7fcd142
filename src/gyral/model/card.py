"""The Model folder: weights, inputs and a card that says what was measured, on what, and where it came from.

models/<name>@<n>/weights.safetensors   arrays, and the family's own settings as JSON in the header
                  inputs.json           the vocabulary (`gyral.model.inputs`)
                  card.json             this
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from gyral.errors import InputError, MissingExtra
from gyral.event.clock import now_text
from gyral.files import find_version, new_version, write_atomic
from gyral.model.cascade import Cascade

if TYPE_CHECKING:
    from gyral.model.inputs import Inputs

FOLDER = "models"
WEIGHTS = "weights.safetensors"
FORMAT = 1


class Weights(NamedTuple):
    """Arrays by name, and the family's own settings."""

    arrays: dict[str, np.ndarray]
    settings: dict[str, Any]


class Compression(msgspec.Struct, frozen=True):
    """What compressing cost and saved; `relative_loss` is (before − after) / before of the card's metric."""

    to: str
    from_model: str = msgspec.field(name="from")
    metric_before: float
    metric_after: float
    relative_loss: float
    max_loss: float
    bytes_before: int
    bytes_after: int
    measured_on: str = ""


def made_from(card: Mapping[str, Any]) -> str:
    """The version that a model was compressed from, by its card as JSON; empty: it was not."""
    return str((card.get("compression") or {}).get("from", ""))


class Variant(msgspec.Struct, frozen=True, omit_defaults=True):
    """One of the forms that a model was tried in, as measured on one machine.

    Attributes
    ----------
    to : how it was made; empty: the model as it is.
    model : what it was published as; empty: it was not.
    size_bytes, memory_bytes : of its folder, and what a process gained by loading it and answering once.
    p50_ms, p99_ms : batch → milliseconds of this process's CPU time in one thread.
    per_s, unit : tokens, pictures or answers a CPU-second.
    is_front : nothing tried is as good, as small and as fast, and better in one of them.
    why : it is refused; empty: it is not.
    tiers : classes of devices that it was chosen for.
    cascade : when the model itself is asked too, where this variant is asked first; None: nothing says when.
    """

    to: str
    quality: float | None = None
    relative_loss: float = 0.0
    size_bytes: int = 0
    memory_bytes: int = 0
    p50_ms: dict[str, float] = {}
    p99_ms: dict[str, float] = {}
    per_s: float = 0.0
    unit: str = ""
    is_front: bool = False
    why: str = ""
    tiers: list[str] = []
    model: str = ""
    cascade: Cascade | None = None


class Card(msgspec.Struct):
    """What `card.json` holds; `format` is raised when an older reader would misread a newer card."""

    format: int = 1
    family: str = ""
    dataset: str = ""
    run: int = 0
    seed: int = 0
    metric: str = "ndcg_at_10"
    measured_on: str = ""
    model: str = ""
    created: str = ""
    learned_until: str | None = None
    repeats: bool = True
    num_subjects: int = 0
    num_objects: int = 0
    num_interactions: int = 0
    size_bytes: int = 0
    candidates: list[dict[str, Any]] = []
    training: dict[str, Any] = {}
    compression: Compression | None = None
    variants: list[Variant] = []

    @property
    def quality(self) -> float | None:
        """The metric of the model as it is: after compression, else of the candidate chosen."""
        if self.compression is not None:
            return self.compression.metric_after
        value = next((one.get(self.metric) for one in self.candidates if one.get("chosen")), None)
        return value if isinstance(value, int | float) else None


def publish(
    root: Path, name: str, weights: Weights, inputs: Inputs | None, card: Card, files: Mapping[str, bytes] | None = None
) -> Card:
    """Write the next version of a model; nothing is visible before everything is on the disk.

    Parameters
    ----------
    inputs : the vocabulary of a recommender.
    files : further files of its folder: name → bytes.
    """
    with new_version(root / FOLDER, name) as (folder, number):
        card.model = f"{name}@{number}"
        card.created = now_text()
        card.size_bytes = write_weights(folder, weights)
        if inputs is not None:
            from gyral.model import inputs as model_inputs  # it brings the kernels, which reading a card does not need

            model_inputs.save(inputs, folder)
        for file, body in (files or {}).items():
            write_atomic(folder / file, body)
        write_card(folder, card)
    return card


def write_card(folder: Path, card: Card) -> None:
    """Write `card.json` in one step."""
    write_atomic(folder / "card.json", msgspec.json.format(msgspec.json.encode(card)))


def write_weights(folder: Path, weights: Weights) -> int:
    """Write arrays and the family's settings in one step; returns the bytes they take."""
    body = weights_bytes(weights)
    write_atomic(folder / WEIGHTS, body)
    return len(body)


def weights_bytes(weights: Weights) -> bytes:
    """Arrays and the family's settings as the bytes of a safetensors file; the same for the same weights."""
    try:
        from safetensors.numpy import save
    except ImportError:
        raise MissingExtra("safetensors", "train", "storing a model") from None
    settings_text = msgspec.json.encode(weights.settings, order="deterministic").decode()
    contiguous = {key: np.ascontiguousarray(value) for key, value in sorted(weights.arrays.items())}
    body: bytes = save(contiguous, metadata={"gyral": settings_text})
    return body


def read_card(folder: Path) -> Card:
    """Read `card.json`.

    Raises
    ------
    InputError : it is missing, not a card, or of a newer gyral.
    """
    try:
        card = msgspec.json.decode((folder / "card.json").read_bytes(), type=Card)
        if not card.family or card.format > FORMAT:
            raise ValueError(f"it is of format {card.format}, and {FORMAT} is known" if card.family else "it names no family")
    except (OSError, ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        hint = "train the model again"
        raise InputError(f"the card of `{folder.name}` cannot be read", why=str(error), where=str(folder), hint=hint) from None
    return card


def read_weights(folder: Path) -> Weights:
    """Read arrays and the family's settings; nothing is unpickled.

    Raises
    ------
    InputError : the file is missing, truncated or not safetensors.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise MissingExtra("safetensors", "serve", "loading a model") from None
    path = folder / WEIGHTS
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
            settings = msgspec.json.decode((file.metadata() or {}).get("gyral", "{}"), type=dict[str, Any])
    except (OSError, SafetensorError, ValueError, TypeError, AttributeError, RecursionError) as error:  # its types may be any
        raise InputError(
            f"the weights of `{folder.name}` cannot be read",
            why=str(error),
            where=str(path),
            hint="train the model again",
        ) from None
    return Weights(arrays, settings)


def find(root: Path, name: str) -> Path:
    """Folder of a model by `name` (its newest version) or `name@n`.

    Raises
    ------
    NotFound : there is no such model; the hint names the nearest.
    """
    return find_version(root / FOLDER, "model", name, "make one: `gyral train DATASET`")

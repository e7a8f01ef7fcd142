"""What a device is told of a bundle."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

FORMAT = 1
PIECE_BYTES = 1 << 20
"""A file is checked piece by piece while it comes, so a damaged byte costs one piece more and not the file."""
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$", description="BLAKE2b of 32 bytes")]
Size = Annotated[int, Meta(ge=0)]


class Patch(msgspec.Struct, frozen=True):
    """A file that makes a file of the bundle out of the one that the device has."""

    old: Digest
    digest: Digest
    size_bytes: Size
    pieces: list[Digest]


class File(msgspec.Struct, frozen=True):
    """One file: what it is called in the folder, what it is for, and what it must be; `pieces` are digests of its pieces."""

    name: str
    role: Literal["weights", "inputs", "card", "other"]
    digest: Digest
    size_bytes: Size
    pieces: list[Digest]
    patch: Patch | None = None


class Quality(msgspec.Struct, frozen=True):
    """As the card has it."""

    metric: str
    value: float | None


class How(msgspec.Struct, frozen=True):
    """How it is run: any of `runtimes` will do; none: arithmetic on arrays. `load` is the way of Python."""

    family: str
    runtimes: list[str]
    load: str


class Manifest(msgspec.Struct, frozen=True):
    """A bundle: the variant of a model that suits a device, its files, and how it is run.

    Attributes
    ----------
    asked : what the device asked for.  model : what it gets, `name@n`.
    variant : `as trained`, or what it was compressed to.
    tier, why : the class of the device, why this one, and why this variant.
    """

    format: int
    asked: str
    model: str
    variant: str
    tier: str
    why: str
    quality: Quality
    size_bytes: Size
    piece_bytes: Size
    run: How
    files: list[File]

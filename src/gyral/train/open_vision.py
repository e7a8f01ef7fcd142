"""A dataset of pictures and the configuration → a task of the family `vision`.

Pictures are read shard by shard and decoded once, to squares of `vision.side`; a picture with names in 100 languages is
a hundred rows of the dataset and one picture here. Which concepts are kept aside is decided by a hash of their names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath

import numpy as np

from gyral.config import Config
from gyral.errors import ConfigError, InputError
from gyral.lake import documents
from gyral.lake.dataset import Dataset
from gyral.model import augment
from gyral.model.nets import captions, vit
from gyral.model.nets.masked import DecoderShape
from gyral.model.pictures import Pictures, decode_all, kept_aside
from gyral.model.task import Task
from gyral.model.tasks.contrastive import Contrastive
from gyral.model.tasks.distill_self import SelfDistilled, Teaching
from gyral.model.tasks.masked import Masked

HELD_OUT = 0.1
"""Share of concepts that is kept aside to measure on."""


def contrastive(data: Dataset, config: Config) -> Task:
    """Pictures and captions; needs a dataset of pairs."""
    vision = config.vision
    trained, held_out = split(read(data.require("pairs", "`vision/contrastive`"), config, captioned=True))
    shape = captions.Shape(vision.buckets, vision.caption_width, vision.caption_depth, vision.heads, 4 * vision.caption_width)
    if vision.caption_width % vision.heads:
        raise _indivisible("vision.caption_width", vision.caption_width, vision.heads)
    recipe = augment.Recipe((vision.crop, 1.0), flip=vision.flip, jitter=vision.jitter, margin=0.1)
    sizes = (shape_of(config), shape, vision.embed)
    return Contrastive(
        *sizes, trained, held_out, recipe, config.train.seed, vision.loss, config.train.batch, vision.captions,
        vision.alike, vision.pooling == "joined",
    )  # fmt: skip


def masked(data: Dataset, config: Config) -> Task:
    """Pictures alone, hidden in part."""
    vision = config.vision
    trained, held_out = split(read(data, config))
    if vision.decoder_width % 4:
        raise _indivisible("vision.decoder_width", vision.decoder_width, 4)
    decoder = DecoderShape(vision.decoder_width, vision.decoder_depth, max(1, vision.decoder_width // 32))
    recipe = augment.Recipe((vision.crop, 1.0), flip=vision.flip)
    return Masked(shape_of(config), decoder, vision.hidden, trained, held_out, recipe, config.train.seed)


def self_distilled(data: Dataset, config: Config) -> Task:
    """Pictures alone, in several views."""
    vision = config.vision
    trained, held_out = split(read(data, config))
    half = max(1, vision.side // 2 // vision.patch) * vision.patch
    teaching = Teaching(prototypes=vision.prototypes, parts=vision.parts, part_side=half, momentum=vision.momentum)
    recipes = [
        augment.Recipe(scale, flip=vision.flip, jitter=vision.jitter, grey=0.2, blur=blur, solarize=solarize)
        for scale, blur, solarize in (((vision.crop, 1.0), 0.5, 0.1), ((vision.crop / 4, vision.crop), 0.3, 0.0))
    ]
    return SelfDistilled(shape_of(config), teaching, trained, held_out, recipes[0], recipes[1], config.train.seed)


def shape_of(config: Config) -> vit.Shape:
    """Sizes of the tower of pictures.

    Raises
    ------
    ConfigError : they do not divide.
    """
    vision = config.vision
    for name, value, by in (
        ("vision.side", vision.side, vision.patch),
        ("vision.width", vision.width, vision.heads),
        ("vision.width", vision.width, 4),
    ):
        if value % by:
            raise _indivisible(name, value, by)
    sizes = (vision.side, vision.patch, vision.width, vision.depth, vision.heads, 4 * vision.width)
    return vit.Shape(*sizes, channels=vision.channels, learned=vision.positions == "learned")


def read(data: Dataset, config: Config, *, captioned: bool = False) -> tuple[Pictures, list[str]]:
    """All pictures of a dataset, with the names of their concepts.

    Parameters
    ----------
    captioned : leave out pictures without a caption.

    Raises
    ------
    InputError : the dataset has none, or they cannot be decoded.
    """
    if data.manifest.kind not in ("pairs", "images"):
        hint = "`gyral curate NAME --source FOLDER_OF_PICTURES` makes one"
        raise InputError(f"`{data.name}` is a dataset of {data.manifest.kind}; `vision` needs one of pictures", hint=hint)
    vision = config.vision
    rows = _Rows(data)
    raws = list(rows.pictures(captioned))
    pixels, is_sound = decode_all(raws, len(raws), vision.side, vision.channels)
    if not is_sound.any():
        hint = "`gyral show` tells what was dropped of it"
        raise InputError(f"`{data.name}` has no {'pictures with captions' if captioned else 'pictures'}", hint=hint)
    known = [each for each, sound in zip(rows.named(vision.concept == "name"), is_sound.tolist(), strict=True) if sound]
    order, concept = np.unique(np.array([key for _, key in known]), return_inverse=True)
    number = np.full(len(raws), -1, np.int64)
    number[is_sound] = np.arange(int(is_sound.sum()))
    told = [(int(number[at]), text, language) for at, text, language in rows.captions if number[at] >= 0]
    seen: set[tuple[int, str, str]] = set()  # two renderings of a concept have the same names
    distinct = []
    for at, text, language in told:
        each = (int(concept[at]), text, language)
        if each not in seen:
            seen.add(each)
            distinct.append(each)
    distinct.sort(key=lambda each: each[0])
    pictures = Pictures(
        pixels[is_sound],
        [name for name, _ in known],
        concept.astype(np.int64),
        [text for _, text, _ in distinct],
        [language for _, _, language in distinct],
        np.array([at for at, _, _ in distinct], np.int64),
    )
    return pictures, [str(name) for name in order]


def split(known: tuple[Pictures, list[str]]) -> tuple[Pictures, Pictures]:
    """What is trained on and what is kept aside, by concept."""
    pictures, names = known
    aside = kept_aside(names, HELD_OUT)
    return pictures.only(np.flatnonzero(~aside)), pictures.only(np.flatnonzero(aside))


class _Rows:
    """Rows of a dataset: its pictures once each, in order, and captions as (picture, text, language)."""

    def __init__(self, data: Dataset) -> None:
        self._data = data
        self.captions: list[tuple[int, str, str]] = []
        self._places: list[tuple[str, int]] = []
        self._digests: list[str] = []

    def pictures(self, captioned: bool) -> Iterator[bytes]:
        """Bytes of each picture; places, digests and captions are kept meanwhile."""
        number: dict[tuple[str, str], int] = {}
        for batch in documents.batches(self._data, ["file", "offset", "declared", "image_digest"]):
            columns = [
                batch[name].to_pylist() if name in batch.schema.names else [None] * batch.num_rows
                for name in ("file", "offset", "declared", "image_digest", "text")
            ]
            for row, (file, offset, declared, digest, text) in enumerate(zip(*columns, strict=True)):
                if captioned and not text:
                    continue
                key = (file, digest.hex() if digest else f"{file}@{offset}")
                if key not in number:
                    number[key] = len(self._places)
                    self._places.append((file, offset))
                    self._digests.append(key[1])
                    yield batch["raw"][row].as_py() or b""
                if text:
                    self.captions.append((number[key], text, declared or ""))

    def named(self, by_name: bool) -> list[tuple[str, str]]:
        """Id and concept of each picture; of several pictures in one file (an archive) each is `FILE@OFFSET`, by itself."""
        count = Counter(file for file, _ in self._places)
        found = []
        for (file, offset), digest in zip(self._places, self._digests, strict=True):
            name = file if count[file] == 1 else f"{file}@{offset}"
            stem = PurePosixPath(file).stem if count[file] == 1 else name
            found.append((name, stem if by_name else digest))
        return found


def _indivisible(name: str, value: int, by: int) -> ConfigError:
    return ConfigError(
        f"`{name} = {value}` is not divisible by {by}", where="[vision]", hint=f"use {max(by, value // by * by)}"
    )

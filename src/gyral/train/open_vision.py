"""A dataset of pictures and the configuration → a task of the family `vision`.

Pictures are read shard by shard and decoded once, to squares of `vision.side`; a picture with names in 100 languages is
a hundred rows of the dataset and one picture here. Which concepts are kept aside is decided by a hash of their names.
"""

from __future__ import annotations

from gyral.config import Config
from gyral.errors import ConfigError
from gyral.lake.dataset import Dataset
from gyral.model import augment, picture_rows
from gyral.model.nets import captions, vit
from gyral.model.nets.masked import DecoderShape
from gyral.model.picture_rows import split
from gyral.model.pictures import Pictures
from gyral.model.task import Task
from gyral.model.tasks.contrastive import Contrastive
from gyral.model.tasks.distill_self import SelfDistilled, Teaching
from gyral.model.tasks.masked import Masked

__all__ = ["contrastive", "masked", "read", "self_distilled", "shape_of", "split"]


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
        vision.alike, vision.pooling == "joined", vision.concept,
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
    """All pictures of a dataset as the configuration wants them, with the names of their concepts."""
    vision = config.vision
    by_name = vision.concept == "name"
    return picture_rows.read(data, vision.side, vision.channels, by_name=by_name, captioned=captioned)


def _indivisible(name: str, value: int, by: int) -> ConfigError:
    return ConfigError(
        f"`{name} = {value}` is not divisible by {by}", where="[vision]", hint=f"use {max(by, value // by * by)}"
    )

"""The sizes that a budget may be spent on: a ladder of widths, with a depth for each, and what a model of each counts.

A family has one or two settings of size, and every other one follows from them or stays as it is. Widths grow by a third or a
half, so that two neighbours differ by about twice in parameters, and a block is added for each so much of width: losses are so
flat about the best size that a finer ladder would choose between equals. Models are built on torch's meta device, which holds
no numbers: a ladder up to billions of parameters is counted in a second, by the roles of the modules themselves.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import replace
from typing import Any, NamedTuple

from gyral.config import Config, with_values
from gyral.errors import ConfigError

WIDTHS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1_024, 1_536, 2_048, 3_072, 4_096)
DEPTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""Of a width that is given."""


class Dials(NamedTuple):
    """Settings that say how large a model is.

    Attributes
    ----------
    depth : empty: the net has no blocks.
    per_block : of width, for each of which the ladder has a block: as many as the family's defaults have.
    """

    width: str
    depth: str
    per_block: int


_LM = Dials("lm.width", "lm.depth", 64)
_RECOMMEND = Dials("recommend.width", "recommend.depth", 32)
_VISION = Dials("vision.width", "vision.depth", 32)
DIALS = {
    "lm": _LM,
    "lm/next_token": _LM,
    "recommender/sequence": _RECOMMEND,
    "recommender/two_tower": _RECOMMEND._replace(depth=""),
    "recommender/ranking": _RECOMMEND._replace(depth=""),
    "vision": _VISION,
    "vision/contrastive": _VISION,
    "vision/masked": _VISION,
    "vision/self_distilled": _VISION,
}
SETTINGS = frozenset(name for each in DIALS.values() for name in each[:2] if name)


class Sized(NamedTuple):
    """A step of the ladder.

    Attributes
    ----------
    flops : of one step of `train.batch` rows, forwards and backwards.
    updated : parameters that each step updates.
    """

    values: dict[str, int]
    config: Config
    N: int
    N_non_embedding: int
    flops: float
    updated: int


def key_of(config: Config) -> str:
    """What is trained, as the table of runs and the hook `task` name it."""
    return f"{config.train.family}/{config.train.task}" if config.train.task else config.train.family


def ladder(config: Config, given: Collection[str]) -> list[dict[str, int]]:
    """Values of the settings of size that nobody gave, smallest first; fewer than two: there is nothing to choose.

    Parameters
    ----------
    given : dotted names of the settings that stand.
    """
    dials = DIALS.get(key_of(config))
    if dials is None:
        return []
    has_width, has_depth = dials.width in given, not dials.depth or dials.depth in given
    if has_width:
        found = [] if has_depth else [{dials.depth: depth} for depth in DEPTHS]
    else:
        depths = {} if has_depth else {width: {dials.depth: max(1, round(width / dials.per_block))} for width in WIDTHS}
        found = [{dials.width: width, **depths.get(width, {})} for width in WIDTHS]
    return [each for each in found if _is_allowed(with_values(config, each))]


def _is_allowed(config: Config) -> bool:
    """Whether heads part the width as the nets of the family want it."""
    if config.train.family == "lm":
        lm = config.lm
        width = lm.width or 64 * lm.depth
        heads = lm.heads or max(1, width // 64)
        return not width % (2 * heads) and not heads % (lm.kv_heads or heads)
    own = config.vision if config.train.family == "vision" else config.recommend
    return not own.width % own.heads and (config.train.family != "vision" or not own.width % 4)


def sized(task: Any, config: Config, values: dict[str, int]) -> Sized | None:
    """What a model of these sizes counts; None: the mesh cannot hold it.

    Parameters
    ----------
    task : opened with the sizes of `config`; its data are not read again.
    """
    import torch

    from gyral.train import scale
    from gyral.train.neural import cost_of
    from gyral.train.parallel import limits, mesh

    config, axes = with_values(config, values), mesh.parse(config.train.parallel)
    task = _reshaped(getattr(task, "task", task), config)
    with torch.device("meta"):
        model = task.build(config.train.seed)
    try:
        if mesh.num_ranks(axes) > 1:
            limits.check(task, model, axes, config.train)
    except ConfigError:
        return None
    flops, updated = cost_of(task, model, config)
    return Sized(values, config, *scale.parameters(task, model), flops, updated)


def opened_for(task: Any, config: Config) -> Any:
    """A task for a net of the sizes of a configuration, of which nothing is read again; None: it has to be opened anew.

    So has one with a teacher, and a recommender, which keeps beside its data what follows from a net's sizes.
    """
    is_free = config.train.family in ("lm", "vision") and not config.train.distill
    return _reshaped(task, config) if is_free else None


def _reshaped(task: Any, config: Config) -> Any:
    """The task with a net of other sizes; what it tells of its data is as it was."""
    from gyral.train import open_lm, open_recommender, open_vision

    task = copy.copy(task)
    if config.train.family == "lm":
        task.shape = open_lm.shape_of(config, task.shape.vocab)
    elif config.train.family == "vision":
        task.shape = open_vision.shape_of(config)
    elif config.train.task == "sequence":
        task.shape = open_recommender.shape_of(config, task.shape.objects)
    else:
        own = config.recommend
        hidden = own.hidden or 4 * own.width
        is_tower = config.train.task == "two_tower"
        task.shape = replace(task.shape, hidden=hidden, **({"width": own.width} if is_tower else {}))
    return task

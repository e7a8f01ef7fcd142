"""A dataset of interactions and the configuration → the recommender's tasks.

What is held out is never learned by the net, the published model included: its weights know the first part, its histories all
of it. The trainer of the family (`gyral.train.recommender`) does otherwise: it learns everything once a candidate has won.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
from torch import nn

from gyral.config import Config
from gyral.errors import ConfigError, InputError
from gyral.lake.dataset import Dataset
from gyral.model import features
from gyral.model import inputs as model_inputs
from gyral.model.counted import NUM
from gyral.model.features import Features
from gyral.model.holdout import Split, hold_out, hold_out_last, measure
from gyral.model.inputs import Inputs
from gyral.model.nets import history as history_net
from gyral.model.nets import interaction
from gyral.model.nets import sequence as sequence_net
from gyral.model.nets import two_tower as two_tower_net
from gyral.model.neural_recommender import NeuralRecommender, arrays_of, meta_of
from gyral.model.recommender import Interactions, Spec, fit_with
from gyral.model.sequences import Sequences
from gyral.model.task import Task
from gyral.model.tasks.history import NextBasket
from gyral.model.tasks.ranking import Ranking
from gyral.model.tasks.recommending import Judge, Kept
from gyral.model.tasks.retrieval import Retrieval
from gyral.model.tasks.sequence import NextObject
from gyral.train.closed_form import starts

MAX_WORDS = 12


class Opened(NamedTuple):
    """What all tasks begin with."""

    inputs: Inputs
    rows: pa.Table
    data: Interactions
    split: Split
    spec: Spec


def sequence(data: Dataset, config: Config) -> Task:
    """`recommender/sequence`."""
    opened, own = _opened(data, config), config.recommend
    shape = shape_of(config, opened.data.num_objects)
    trained = Sequences.of(opened.split.before, shape.length)
    judge, kept = _around("sequence", shape, opened, config)
    return NextObject(shape, trained, config.train.seed, own.negatives, judge, kept)


def two_tower(data: Dataset, config: Config) -> Task:
    """`recommender/two_tower`."""
    opened, own = _opened(data, config), config.recommend
    before = opened.split.before
    sizes = (before.num_subjects, before.num_countries, before.num_objects)
    shape = two_tower_net.Shape(*sizes, own.width, own.length, own.hidden or 4 * own.width, own.dropout)
    words = words_of(opened.inputs.titles, before.num_objects)
    country = np.full(before.num_subjects, -1, dtype=np.int64)
    country[before.subject] = before.country
    judge, kept = _around("two_tower", shape, opened, config)
    trained = Sequences.of(before, shape.length)
    return Retrieval(shape, trained, country, words, config.train.seed, own.temperature, judge, kept)


def history(data: Dataset, config: Config) -> Task:
    """`recommender/history`: an example is a subject, so a step of `train.batch` takes whole customers."""
    opened, own = _opened(data, config), config.recommend
    shape = history_net.Shape(opened.data.num_objects, own.history_width, own.length)
    judge, kept = _around("history", shape, opened, config)
    trained = Sequences.of(opened.split.before, shape.length)
    return NextBasket(shape, trained, config.train.seed, own.fresh_days, judge, kept)


def ranking(data: Dataset, config: Config) -> Task:
    """`recommender/ranking`: the first part of the events is learned, whatever `hold_out` says: its numbers go by time."""
    if config.recommend.hold_out != "time":
        raise ConfigError("`ranking` is judged on the last part of all events", where="recommend.hold_out", hint='use "time"')
    opened, own = _opened(data, config), config.recommend
    learned, read = len(opened.split.before), None
    columns = features.columns_of(data.manifest, opened.rows, learned) if own.words else []
    if columns:
        read = Features(columns, opened.rows, opened.data.subject, opened.data.object, own.words)
    shape = ranking_shape(opened.data, read, config)
    judge, kept = _around("ranking", shape, opened, config, read)
    return Ranking(shape, opened.data, learned, config.train.seed, own.drawn, None, judge, kept, read)


def ranking_shape(data: Interactions, read: Features | None, config: Config) -> interaction.Shape:
    """Sizes of a ranking net over the events and features of a dataset."""
    own, more = config.recommend, read.sizes if read is not None else features.Sizes(0, 0)
    sizes = (data.num_subjects, data.num_countries, data.num_objects, NUM + more.numbers)
    return interaction.Shape(
        *sizes, own.table_width, own.hidden or 4 * own.width, own.length, own.dropout, own.crosses, own.interaction,
        more.words, own.words if more.words else 0,
    )  # fmt: skip


def shape_of(config: Config, num_objects: int) -> sequence_net.Shape:
    """Sizes of a sequence net.

    Raises
    ------
    ConfigError : the width cannot be parted among the heads.
    """
    own = config.recommend
    if own.width % own.heads:
        raise ConfigError(
            f"{own.heads} heads do not divide a width of {own.width}",
            where="recommend.heads",
            hint="a width that is a multiple of the heads",
        )
    hidden = own.hidden or 4 * own.width
    return sequence_net.Shape(num_objects, own.width, own.depth, own.heads, own.length, hidden, own.dropout, own.net)


def words_of(titles: list[str], num_objects: int) -> np.ndarray:
    """Hashed words of each object's title, int64 [V, W]; 0 is no word."""
    words = np.zeros((num_objects, MAX_WORDS), dtype=np.int64)
    for row, title in enumerate(titles):
        found = dict.fromkeys(re.findall(r"\w+", title.lower()))
        for place, word in enumerate(list(found)[:MAX_WORDS]):
            words[row, place] = 1 + zlib.crc32(word.encode()) % (two_tower_net.NUM_WORDS - 1)
    return words


def _opened(data: Dataset, config: Config) -> Opened:
    repeats = data.require("interactions", "a recommender").manifest.repeats
    rows = data.read()
    inputs, interactions = model_inputs.encode(rows)
    is_last = config.recommend.hold_out == "last"
    split = hold_out_last(interactions) if is_last else hold_out(interactions, repeats=repeats, seed=config.train.seed)
    if len(split.before) == 0:
        raise InputError(
            f"`{data.name}` has nothing left to learn from", why="all of it was held out", hint="ingest more events"
        )
    spec = replace(starts(repeats)[-1], repeats=repeats)
    if not config.recommend.closed:  # only somebody new is answered by it: no item–item weights
        spec = replace(spec, kind="popularity", markov=0.0)
    return Opened(inputs, rows, interactions, split, spec)


def _around(net: str, shape: Any, opened: Opened, config: Config, read: Features | None = None) -> tuple[Judge, Kept]:
    closed, split, data = config.recommend.closed, opened.split, opened.data
    told = {features.SETTING: features.told(read)} if read is not None else {}

    def known(num: int) -> dict[str, np.ndarray]:
        return read.latest(num, data.num_subjects, data.num_objects) if read is not None else {}

    before = fit_with(split.before, opened.spec)
    arrays = arrays_of(split.before, before, shape.length) | known(len(split.before))
    meta = meta_of(net, asdict(shape), before, closed) | told

    def judge(model: nn.Module) -> dict[str, float]:
        """Full ranking of what was held out, by a net that learned the rest."""
        return measure(NeuralRecommender(arrays, meta, model), split)

    everything = fit_with(data, opened.spec)
    kept = arrays_of(data, everything, shape.length) | known(len(data))
    files = {model_inputs.FILE: msgspec.json.encode(opened.inputs)}
    meta = meta_of(net, asdict(shape), everything, closed) | told | {"hold_out": config.recommend.hold_out}
    return judge, Kept(kept, meta, files)

"""A ranking net as a candidate behind the closed form: DCN-v2 sorts its best 100 anew, and must be clearly better to serve.

The net knows numbers that the closed form does not: how often lately, how long ago, and what features tell. It is asked about
100 objects, not all: an answer costs .3 ms instead of 2.3 on ml-100k, .7 instead of 13 on the bundled shop. NDCG@10 in time
order, closed form / sorted anew / all objects scored: ml-100k .3979 / .4089 / .4128 (three seeds), the shop .3274 / .3295 /
.3295, hardly more than noise for 40 s of training (`benchmarks/recommender/rerank.py`). So it is not tried unless
`recommend.ranker` is `auto`.
"""

from __future__ import annotations

from dataclasses import asdict
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from gyral.config import Config
from gyral.config.training import Optim
from gyral.lake.dataset import Dataset
from gyral.model import features
from gyral.model.card import Weights
from gyral.model.holdout import Split, measure
from gyral.model.recommender import Interactions, Recommender, Spec, fit_with
from gyral.progress import Meter
from gyral.train.sequence_candidate import SHARE, Judged, arrays_in, learned

if TYPE_CHECKING:
    from torch import nn

BEST = 100
PASSES = 2.5
BATCH = 512
MIN_STEPS, MAX_STEPS = 200, 4_000
OPTIM = Optim(rate=1e-3, warmup=50, decay=0.5, tables="rowwise_adagrad", table_rate=0.02)
CLOSED = (0.0, 0.5, 1.0, 2.0, 4.0)
"""Weights of the closed form beside the net that are tried."""
ROW_S = 17e-6
"""What an example takes to be drawn, and to be learned from: 17 CPU-s for 2,000 steps of 512."""


def planned_s(data: Interactions, config: Config, budget_s: float) -> float:
    """Nominal seconds of two trainings; 0 where they are not to be: not asked for, no torch, too dear, too little data."""
    if config.recommend.ranker == "never" or find_spec("torch") is None or len(data) < BATCH:
        return 0.0
    cost_s = 2 * num_steps(len(data), config) * BATCH * ROW_S
    return cost_s if cost_s <= SHARE * budget_s else 0.0


def num_steps(num_events: int, config: Config) -> int:
    """Updates of one training."""
    return int(min(max(PASSES * num_events * (1 + config.recommend.drawn) / BATCH, MIN_STEPS), MAX_STEPS))


def compete(
    made: Dataset, rows: pa.Table, data: Interactions, split: Split, spec: Spec, config: Config, meter: Meter
) -> Judged:
    """Train on the part before and ask about the part after; the entry is that of the best weight of the closed form."""
    from gyral.model.neural_recommender import NeuralRecommender, arrays_of

    num = len(split.before)
    read = _read(made, rows, data, num, config)
    net, shape = _trained(data, num, read, config, meter)
    closed_form = fit_with(split.before, spec)
    arrays = arrays_of(split.before, closed_form, shape["length"]) | _known(read, data, num)
    entries: list[dict[str, Any]] = []
    for closed in CLOSED:
        told = measure(NeuralRecommender(arrays, _meta(shape, closed_form, closed, read), net), split)
        scores = {key: round(value, 6) for key, value in told.items()}
        entries.append({"name": f"{config.recommend.interaction} of {spec.name}", **scores, "closed": closed})
    best = max(entries, key=lambda entry: entry["ndcg_at_10"])
    return Judged(net, [best], best, "ranking")


def finished(
    made: Dataset, rows: pa.Table, data: Interactions, split: Split, model: Recommender, judged: Judged, config: Config,
    meter: Meter,
) -> Weights:  # fmt: skip
    """The winner, learned from everything; the net that was judged stays along as the twin to measure on."""
    from gyral.model.neural_recommender import arrays_of

    read = _read(made, rows, data, len(split.before), config)
    net, shape = _trained(data, len(data), read, config, meter)
    kept = arrays_of(data, model, shape["length"]) | _known(read, data, len(data))
    twin = {f"twin.{name}": values for name, values in arrays_in(judged.net).items()}
    return Weights({**kept, **arrays_in(net), **twin}, _meta(shape, model, judged.best["closed"], read))


def _read(made: Dataset, rows: pa.Table, data: Interactions, num: int, config: Config) -> features.Features | None:
    columns = features.columns_of(made.manifest, rows, num) if config.recommend.words else []
    return features.Features(columns, rows, data.subject, data.object, config.recommend.words) if columns else None


def _known(read: features.Features | None, data: Interactions, num: int) -> dict[str, Any]:
    return read.latest(num, data.num_subjects, data.num_objects) if read is not None else {}


def _meta(shape: dict[str, Any], closed_form: Recommender, closed: float, read: features.Features | None) -> dict[str, Any]:
    from gyral.model.neural_recommender import meta_of

    told = {features.SETTING: features.told(read)} if read is not None else {}
    return meta_of("ranking", shape, closed_form, closed, BEST) | told


def _trained(
    data: Interactions, num: int, read: features.Features | None, config: Config, meter: Meter
) -> tuple[nn.Module, dict[str, Any]]:
    from gyral.model.tasks.ranking import Ranking
    from gyral.train.open_recommender import ranking_shape

    shape = ranking_shape(data, read, config)
    task = Ranking(shape, data, num, config.train.seed, config.recommend.drawn, features=read)
    return learned(task, num_steps(num, config), BATCH, OPTIM, config.train.seed, meter), asdict(shape)

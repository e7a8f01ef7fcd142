"""A small shop: everybody buys again what they bought, and what many buy now."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gyral import config as configs
from gyral.curate.interactions import curate
from gyral.ingest import verb as ingest
from gyral.lake import dataset as datasets
from gyral.run import Run

DAY_S = 86_400
NUM_SUBJECTS, NUM_OBJECTS = 120, 40


@pytest.fixture(scope="session")
def shop(tmp_path_factory):
    """A project with the dataset `shop`."""
    root = tmp_path_factory.mktemp("shop")
    rng, rows = np.random.default_rng(0), []
    for subject in range(NUM_SUBJECTS):
        liked = rng.choice(NUM_OBJECTS, 3, replace=False)
        for basket in range(int(rng.integers(1, 9))):
            time = 1.3e9 + DAY_S * (10 * basket + float(rng.random()))
            for item in {*rng.choice(liked, 2).tolist(), int(rng.integers(NUM_OBJECTS) ** 2 // NUM_OBJECTS)}:
                rows.append((f"s{subject}", f"o{item:02d}", int(time * 1e6), "NL"))
    rows.sort(key=lambda row: row[2])
    columns = dict(zip(("subject", "object", "event_time", "country"), map(list, zip(*rows, strict=True)), strict=True))
    columns["event_time"] = pa.array(columns["event_time"], pa.timestamp("us", "UTC"))
    path = root / "shop.parquet"
    pq.write_table(pa.table(columns), path)
    told = {
        "ingest.source": str(path),
        "ingest.map": {"subject": "subject", "object": "object", "time": "event_time", "country": "country"},
    }
    config = configs.load(root, ["curate.repeats=true"], told)
    with Run.start(root, "ingest", config) as run:
        ingest.run_verb(root, config, run, None, None, False)
    with Run.start(root, "curate", config) as run:
        curate(root, "shop", config, run)
    return root


@pytest.fixture
def trained(shop):
    """Train in this process: settings of `train.federated` → the fitted model."""
    from gyral.train.federated.fit import fit

    def train(on="local://threads=1", **values):
        settings = {"rounds": 4, "cohort": 30, "fleet": "ideal", **values}
        sets = [
            f"train.federated.{name}={str(value).lower() if isinstance(value, bool) else value}"
            for name, value in settings.items()
        ]
        config = configs.load(
            shop,
            ["recommend.history_width=4", "recommend.length=20", *sets],
            {"train.family": "recommender", "train.sync": "federated", "on": on},
        )
        with Run.start(shop, "train", config) as run:
            return fit(shop, datasets.find(shop, "shop"), config, run, 1.0)

    return train

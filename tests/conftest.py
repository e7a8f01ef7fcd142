import json
import shutil
from collections import Counter
from pathlib import Path

import hypothesis
import pyarrow.parquet as pq
import pytest

from gyral import config as configs
from gyral.files import new_version
from gyral.model import card as cards
from gyral.run import Run

hypothesis.settings.register_profile("gyral", deadline=None)  # the first call of a kernel compiles it
hypothesis.settings.load_profile("gyral")

REPOSITORY = Path(__file__).resolve().parents[1]


SLOW = 20
"""A test marked slow takes as long as so many others."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Files that take long are begun first, so that no worker is busy with one when the others have nothing left to do."""
    costs = Counter()
    for item in items:
        costs[item.path] += SLOW if item.get_closest_marker("slow") else 1
    items.sort(key=lambda item: (-costs[item.path], item.path))


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setenv("GYRAL_NO_PROGRESS", "1")


@pytest.fixture
def repository():
    return REPOSITORY


@pytest.fixture
def retail():
    return REPOSITORY / "data" / "online_retail.parquet"


@pytest.fixture
def project(tmp_path):
    """A project folder with the verbs as one-line calls."""
    return Project(tmp_path / "project")


@pytest.fixture(scope="session")
def small_shop(tmp_path_factory):
    """The first 60,000 rows of the bundled purchases."""
    path = tmp_path_factory.mktemp("shop") / "shop.parquet"
    pq.write_table(pq.read_table(REPOSITORY / "data" / "online_retail.parquet").slice(0, 60_000), path)
    return path


@pytest.fixture(scope="session")
def made(small_shop, tmp_path_factory):
    """A project folder with a lake, a dataset `shop`, a model `shop` and its int8 twin; do not change it, copy it."""
    project = Project(tmp_path_factory.mktemp("made") / "project")
    project.ingest(small_shop)
    project.curate()
    project.train(budget_s=0.5)
    project.compress()
    return project


@pytest.fixture
def shop(made, tmp_path):
    """A copy of `made` to work in."""
    shutil.copytree(made.root, tmp_path / "shop")
    project = Project.__new__(Project)
    project.root = tmp_path / "shop"
    return project


@pytest.fixture
def publish():
    """Publish the newest version of a model once more, as the next version."""

    def next_version(root, name, damage=None):
        source = cards.find(root, name)
        with new_version(root / "models", name) as (folder, number):
            for path in source.iterdir():
                shutil.copy(path, folder / path.name)
            card = json.loads((folder / "card.json").read_text())
            (folder / "card.json").write_text(json.dumps({**card, "model": f"{name}@{number}"}))
            if damage:
                (folder / damage).write_bytes(b"damaged")
        return f"{name}@{number}"

    return next_version


class Project:
    def __init__(self, root):
        self.root = root
        root.mkdir()

    def config(self, **flags):
        return configs.load(
            self.root,
            [],
            {"on": "local://threads=1", **{key.replace("__", "."): value for key, value in flags.items()}},
        )

    def ingest(self, source, **flags):
        from gyral.ingest.files import ingest

        config = self.config(ingest__source=str(source), **flags)
        with Run.start(self.root, "ingest", config) as run:
            return ingest(self.root, config, run)

    def curate(self, name="shop", until=None, **flags):
        from gyral.curate.interactions import curate

        config = self.config(**flags)
        with Run.start(self.root, "curate", config) as run:
            return curate(self.root, name, config, run, until)

    def train(self, dataset="shop", budget_s=20.0, **flags):
        from gyral.train.trainer import train

        config = self.config(**flags)
        with Run.start(self.root, "train", config) as run:
            return train(self.root, dataset, config, run, budget_s=budget_s)

    def compress(self, model="shop", **flags):
        from gyral.compress.quantize import compress

        config = self.config(**flags)
        with Run.start(self.root, "compress", config) as run:
            return compress(self.root, model, config, run)

    @property
    def lake(self):
        from gyral.lake.table import Lake

        return Lake(self.root)

    def events(self, columns=None):
        return self.lake.snapshot("events").read(columns).to_pylist()

    def quarantine(self):
        return (
            self.lake.snapshot("quarantine").read(["reason", "raw", "source"]).to_pylist()
            if self.lake.exists("quarantine")
            else []
        )


@pytest.fixture
def arrive():
    """Bring texts into the lake of a project, as documents: in one batch of the log, of a partition."""
    from gyral.config import Config
    from gyral.event.codec import encode_payload
    from gyral.event.wire import check_json, to_columns
    from gyral.ingest.drain import Drain
    from gyral.lake.table import Lake
    from gyral.log.sqlite import SqliteLog

    def bring_in(root, texts, app="wiki", partition="a", subject="somebody", **props):
        lake = Lake(root)
        with SqliteLog(lake.log_folder) as log:
            batch = f"{partition}-{log.end(partition)}"
            rows = [
                {
                    "event_id": f"{batch}-{number}",
                    "event_time": 1_700_000_000_000,
                    "kind": "document",
                    "subject": subject,
                    "object": f"page {number}",
                    "app": app,
                    "props": {"media": "text", "text": text, **props},
                }
                for number, text in enumerate(texts)
            ]
            checked = check_json(json.dumps(rows).encode())
            assert not checked.bad
            log.append(partition, batch, encode_payload(to_columns(checked.events, 1_700_000_000_000_000)), len(rows))
            Drain.of(lake, log, Config()).run()
        return lake

    return bring_in

from pathlib import Path

import pytest

from gyral import config as configs
from gyral.run import Run

REPOSITORY = Path(__file__).resolve().parents[1]


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

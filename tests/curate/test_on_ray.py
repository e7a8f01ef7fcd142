"""The same documents on Ray: identical files."""

import json

import pytest

from gyral import config as configs
from gyral.curate import documents as verb
from gyral.curate.readers import finding
from gyral.run import Run

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]


def test_documents_on_ray_give_the_same_bytes(corpus, tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setattr(finding, "PART_BYTES", 1 << 16)
    monkeypatch.setattr(finding, "_LEAST_BYTES", 1 << 14)
    source = corpus.write_lines(tmp_path / "source", corpus.texts(400), 6)
    found = []
    for on in ("local://threads=1", "ray://workers=2"):
        root = tmp_path / on.partition(":")[0]
        config = configs.load(root, [f"on={json.dumps(on)}", f"curate.source={json.dumps(str(source))}"])
        with Run.start(root, "curate", config) as run:
            made = verb.curate(root, "pages", config, run)
        assert len(made.manifest.shards) >= 4
        found.append((corpus.digests(made.folder), made.manifest.dropped))
    assert found[0] == found[1]

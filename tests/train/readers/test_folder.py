"""Training straight from a folder of shards: what other trainers wrote is a dataset as it lies."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gyral import config as configs
from gyral.errors import InputError, NotFound, UsageError
from gyral.lake import documents
from gyral.run import Run
from gyral.train import resume
from gyral.train.readers import folder
from gyral.train.tasks import open_task

from ... import verbs

FIXTURES = Path(__file__).parent / "fixtures"


def test_shards_are_documents_of_the_kind_their_columns_tell(tmp_path):
    path = shutil.copytree(FIXTURES / "wds", tmp_path / "wds")
    made = folder.find(tmp_path, str(path))
    assert made.manifest.kind == "pairs" and made.manifest.rows_kept == 7 and folder.title_of(made) == "wds"
    batch = next(documents.batches(made, ["file", "declared", "image_digest"]))
    assert batch["text"][3].as_py().startswith("Page 3") and batch["raw"][3].as_py().startswith(b"\x89PNG")
    assert len(set(batch["file"].to_pylist())) == 7 and len(set(batch["image_digest"].to_pylist())) == 7
    assert batch["declared"].null_count == 7
    assert made.require("text", "a language model") is made  # the captions
    with pytest.raises(InputError, match="needs one of interactions"):
        made.require("interactions", "a recommender")
    assert documents.read(folder.find(tmp_path, str(FIXTURES / "lit")))["text"][6].as_py().endswith("Again.")


def test_shards_without_text_or_pictures_and_names_of_nothing_are_refused(tmp_path):
    with pytest.raises(NotFound, match="no dataset"):
        folder.find(tmp_path, "nothing")
    pq.write_table(pa.table({"x": [1.0]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="neither texts nor pictures") as caught:
        folder.find(tmp_path, str(tmp_path))
    assert "`x`" in caught.value.hint


def test_a_language_model_is_trained_on_a_folder_of_parquet_and_not_resumed_on_another(tmp_path):
    root, path = tmp_path / "project", tmp_path / "some shards"
    path.mkdir()
    texts = [f"Number {number} of many is written here, and what goes out comes back. " * 3 for number in range(60)]
    pq.write_table(pa.table({"content": texts}), path / "0.parquet", row_group_size=16)
    sizes = ["lm.depth=1", "lm.width=32", "lm.length=32", "train.batch=8", "train.steps=6", "train.checkpoint_every=4"]
    sets = [word for size in sizes for word in ("--set", size)]
    root.mkdir()
    told = verbs.result("train", path, "--family", "lm", *sets, "--root", root)
    assert told["model"] == "some_shards@1" and told["loss"][-1] < told["loss"][0]
    config = configs.load(root, [], {}, resume.settings_of(root, 1))
    num_bytes = sum(len(text) + 1 for text in texts)
    assert 0.7 * num_bytes < 32 * open_task(root, str(path), config).num_rows <= num_bytes  # a tenth is kept aside
    with Run.start(root, "train", config) as run:
        assert resume.adopt(root, 1, str(path), config, run) == str(path)
    pq.write_table(pa.table({"content": texts[:9]}), path / "1.parquet")
    with pytest.raises(UsageError, match="has changed"), Run.start(root, "train", config) as run:
        resume.adopt(root, 1, "", config, run)

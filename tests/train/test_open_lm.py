"""A dataset becomes a task: what is kept aside is never trained on, and with tokens bits per byte are of the text's bytes."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from gyral.curate.verb import curate
from gyral.errors import InputError
from gyral.lake import dataset as datasets
from gyral.model.decoder import Decoder
from gyral.model.lm import Reader
from gyral.model.stream import Text
from gyral.model.task import alone
from gyral.model.tokenizer import Tokenizer
from gyral.run import Run
from gyral.train.open_lm import next_token
from gyral.train.tasks import open_task

STAGES = ["extract", "repair", "digest"]
SIZES = {"train__family": "lm", "lm__depth": 1, "lm__width": 32, "lm__heads": 2, "lm__length": 32, "train__steps": 2}


@pytest.fixture
def made(project, tmp_path):
    """Curate texts → the function that opens a task on them."""

    def make(texts, **flags):
        folder = tmp_path / "pages"
        folder.mkdir(exist_ok=True)
        for number, text in enumerate(texts):
            (folder / f"{number:03d}.txt").write_text(text)
        config = project.config(curate__source=str(folder), curate__stages=STAGES, curate__name="pages", **flags)
        with Run.start(project.root, "curate", config) as run:
            return curate(project.root, config, run)

    return make


def pages(number):
    random = np.random.default_rng(1)
    words = ["gyre", "turns", "what", "it", "carries", "comes", "back", "another", "day", "größe", "日本", "number", "page"]
    return [f"Page {n}: " + " ".join(random.choice(words, int(random.integers(20, 60)))) for n in range(number)]


def trained_bytes(task):
    """All targets of a pass, as text."""
    rows = [task.batch(np.array([at]), 0)["targets"][0] for at in range(task.num_rows)]
    return bytes(int(each) for row in rows for each in row if 0 <= int(each) < 256)


def test_what_is_kept_aside_is_not_trained_on(made, project):
    texts = pages(60)
    made(texts)
    task = open_task(project.root, "pages", project.config(**SIZES))
    body = trained_bytes(task)
    outside = [text for text in texts if text.encode() not in body]
    held_out = task._held_out
    assert 2 <= len(held_out.ends) <= 14
    tokens, _ = held_out.rows(np.array([0]), len(held_out))
    kept = {bytes(each[:-1].astype(np.uint8)).decode() for each in np.split(tokens[0, 1:], held_out.ends[:-1])}
    assert kept <= set(outside) and len(outside) - len(kept) <= 1  # the last sequence that is not full
    made([*texts, *(f"Another page {n} that came later, a little longer than others." for n in range(20))])
    later = open_task(project.root, "pages", project.config(**SIZES))._held_out
    tokens, _ = later.rows(np.array([0]), len(later))
    assert kept <= {bytes(each[:-1].astype(np.uint8)).decode() for each in np.split(tokens[0, 1:], later.ends[:-1])}
    few = open_task(project.root, "pages", project.config(**SIZES, lm__held_out_bytes=300))._held_out
    assert few.num_bytes <= 300 < held_out.num_bytes


def test_the_dataset_may_say_what_is_kept_aside(made, project):
    texts = pages(20)
    data = made([*texts, texts[4]], dedup__exact=False)  # a copy of what is kept aside is not trained on either
    path = next((data.folder / "shards").glob("*.signals.parquet"))
    table = pq.read_table(path)
    names = [
        "valid" if row["file"] == "004.txt" else "test" if row["file"] == "005.txt" else "train" for row in table.to_pylist()
    ]
    path.unlink()
    pq.write_table(table.append_column("split", pa.array(names)), path)
    data.manifest.shards[0] = type(data.manifest.shards[0])(
        data.manifest.shards[0].file, data.manifest.shards[0].rows, data.manifest.shards[0].sha256, digest(path)
    )
    task = next_token(data, project.config(**SIZES))
    assert task._held_out.num_bytes == len(texts[4].encode()) + len(texts[5].encode())
    body = trained_bytes(task)
    assert texts[4].encode() not in body and texts[5].encode() not in body and texts[6].encode() in body


def digest(path):
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_one_text_is_cut(made, project):
    text = "".join(f"Line {number} of one long text.\n" for number in range(100))
    made([text])
    task = open_task(project.root, "pages", project.config(**SIZES))
    whole = trained_bytes(task)
    assert text.encode().startswith(whole) and 0.85 * len(text) < len(whole) <= 0.9 * len(text)
    assert abs(task._held_out.num_bytes - 0.1 * len(text)) < 2
    made(["short"])
    with pytest.raises(InputError, match="less text to train on"):
        open_task(project.root, "pages", project.config(**SIZES))


@pytest.mark.parametrize("packing", ["concatenated", "best_fit"])
def test_tokens_of_a_dataset_are_read(made, project, packing):
    pytest.importorskip("tokenizers")
    texts = pages(80)
    flags = {"tokens__write": True, "tokens__vocab_size": 300, "tokens__packing": packing, "tokens__sequence_tokens": 64}
    data = made(texts, **flags)
    sizes = {**SIZES, "lm__length": 64}
    task = open_task(project.root, "pages", project.config(**sizes))
    body = task.files()["tokenizer.json"]
    tokenizer = Tokenizer(body)
    assert task.settings()["tokens"] == tokenizer.fingerprint and task.shape.vocab == tokenizer.vocab_size
    batch = task.batch(np.arange(task.num_rows), 0)
    assert "documents" in batch and int(batch["inputs"].max()) < tokenizer.vocab_size
    torch.set_num_threads(1)
    model = task.build(0).eval()
    assert task.loss(model, {name: rows[:2] for name, rows in batch.items()}, alone).weight > 60
    got = task.evaluate(model)["bits_per_byte"]
    state = {name: value for name, value in model.state_dict().items() if name != "logits.weight"}
    reader = Reader(Decoder(task.shape, 64, "llama", state, tokenizer.fingerprint, body, task.settings()["end"]))
    tokens, _ = task._held_out.rows(np.array([0]), len(task._held_out))
    aside = [tokenizer.decode(each[:-1]) for each in np.split(tokens[0, 1:], task._held_out.ends[:-1])]
    assert set(aside) <= set(texts) and 1 < len(aside) < 20
    assert not any(text.partition(":")[0].encode() + b":" in decoded(task, tokenizer) for text in aside)
    scores = reader.score(aside, stride=64)
    assert scores.size_bytes.tolist() == [len(text.encode()) for text in aside]
    assert abs(scores.bits_per_byte - got) < 1e-6
    if packing == "best_fit":
        with pytest.raises(InputError, match="packed to 64"):
            open_task(project.root, "pages", project.config(**SIZES))
    assert open_task(project.root, "pages", project.config(**SIZES, lm__tokens="bytes")).shape.vocab == Text.VOCAB
    assert data.name == datasets.find(project.root, "pages").name


def decoded(task, tokenizer):
    """The trained text, rows after rows, for `in`."""
    found = []
    for at in range(task.num_rows):
        batch = task.batch(np.array([at]), 0)
        kept = [int(token) for token, target in zip(batch["inputs"][0], batch["targets"][0], strict=True) if target >= 0]
        found.append(tokenizer.decode(kept))
    return "\n".join(found).encode()


def test_a_dataset_without_tokens_is_refused_where_they_are_asked_for(made, project):
    made(pages(5))
    with pytest.raises(InputError, match="has no tokens"):
        open_task(project.root, "pages", project.config(**SIZES, lm__tokens="shards"))

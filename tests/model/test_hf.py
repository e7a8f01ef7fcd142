"""Folders of transformers: what is written is read by it with the same logits, and what it writes is read here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from gyral.errors import InputError, UsageError
from gyral.model import hf
from gyral.model.decoder import Decoder
from gyral.model.nets.llama import Shape
from gyral.model.task import seeded
from gyral.model.tasks.next_token import build_net
from gyral.model.tokenizer import Tokenizer

REPOSITORY = Path(__file__).resolve().parents[2]
SHAPES = {
    "plain": ("llama", Shape(257, 64, 2, 4, 4, 96, tied=False)),
    "grouped": ("llama", Shape(257, 64, 3, 8, 2, 96, tied=False)),
    "tied": ("llama", Shape(257, 64, 2, 4, 1, 96, tied=True, theta=500_000.0, eps=1e-6)),
    "gpt2": ("gpt2", Shape(257, 64, 2, 4, 4, 256)),
}
SCRIPT = """
import json, sys, numpy as np, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, into, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
torch.set_num_threads(1)
model = AutoModelForCausalLM.from_pretrained(folder).eval()
tokens = torch.from_numpy(np.load(folder + "/tokens.npy"))
with torch.no_grad():
    logits = model(tokens).logits.numpy()
text = "Grüße, 日本 \\n!"
tokenizer = AutoTokenizer.from_pretrained(folder)
ids = tokenizer(text)["input_ids"]
losses = []
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
model.train()
for _ in range(steps):
    loss = model(tokens, labels=tokens).loss
    losses.append(float(loss.detach()))
    loss.backward(); optimizer.step(); optimizer.zero_grad()
np.save(into + "/logits.npy", logits)
model.eval()
if not steps:
    model.save_pretrained(into, safe_serialization=True)
print(json.dumps({"kind": type(model).__name__, "ids": ids, "back": tokenizer.decode(ids), "losses": losses,
                  "end": tokenizer.eos_token_id}))
"""


def decoder(name):
    layout, shape = SHAPES[name]
    model = seeded(7, lambda: build_net(layout, shape, 64))
    torch.manual_seed(8)
    for param in model.parameters():  # biases and gains too
        torch.nn.init.normal_(param, std=0.2)
    state = {name: tensor for name, tensor in model.state_dict().items() if not (shape.tied and name == "logits.weight")}
    return Decoder(shape, 64, layout, state, "bytes", b"", 256)


def logits_of(found, tokens):
    torch.set_num_threads(1)
    with torch.no_grad():
        return found.build()(torch.from_numpy(tokens), torch.arange(tokens.shape[1]).expand(*tokens.shape)).numpy()


@pytest.mark.parametrize("name", SHAPES)
def test_what_is_written_is_read_back(name, tmp_path):
    hf.write(decoder(name), tmp_path / "out")
    found = hf.read(tmp_path / "out")
    assert found.shape == SHAPES[name][1] and found.length == 64 and found.tokens == "bytes" and found.end == 256
    for key, tensor in decoder(name).state.items():
        assert torch.equal(found.state[key], tensor), key
    with pytest.raises(UsageError, match="holds a model"):
        hf.write(found, tmp_path / "out")


def test_a_tokenizer_of_bytes_reads_bytes():
    tokenizer = Tokenizer(hf.tokenizer_of_bytes())
    text = "Grüße, 日本 \n\0\x7f!" + "".join(map(chr, range(256)))
    assert tokenizer.encode([text]).tokens.tolist() == list(text.encode())
    assert tokenizer.decode(list(text.encode())) == text
    assert tokenizer.id_of(hf.END_TOKEN) == 256 and tokenizer.vocab_size == 257


def test_a_model_that_cannot_be_used_is_refused(tmp_path):
    with pytest.raises(InputError, match="is no model"):
        hf.read(tmp_path)
    hf.write(decoder("plain"), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    for change, why in [
        ({"model_type": "mamba"}, "its kind is"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "rotary"),
        ({"attention_bias": True}, "biases"),
        ({"hidden_size": 32}, "is missing or unknown|do not fit|biases"),
    ]:
        (tmp_path / "out" / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(InputError, match=why):
            hf.read(tmp_path / "out").build()
    (tmp_path / "out" / "config.json").write_text(json.dumps(config))
    (tmp_path / "out" / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../secret"}}')
    with pytest.raises(InputError, match="outside its folder"):
        hf.read(tmp_path / "out")


def transformers():
    """Python of the environment that holds transformers; see `benchmarks/measure.py`."""
    sys.path.insert(0, str(REPOSITORY / "benchmarks"))
    try:
        from measure import peer
    finally:
        sys.path.pop(0)
    return peer("transformers", ["torch==2.13.0", "transformers==4.57.6", "safetensors"])


def asked(folder, into, steps):
    into.mkdir(exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    done = subprocess.run(
        [transformers(), "-c", SCRIPT, str(folder), str(into), str(steps)],
        capture_output=True, text=True, timeout=280, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_transformers_gives_the_same_logits(name, tmp_path):
    out, back = tmp_path / "out", tmp_path / "back"
    hf.write(decoder(name), out)
    tokens = np.random.default_rng(0).integers(0, 257, (3, 40))
    np.save(out / "tokens.npy", tokens)
    told = asked(out, back, 0)
    assert told["kind"] == hf.ARCHITECTURES[SHAPES[name][0]]
    assert told["ids"] == list("Grüße, 日本 \n!".encode()) and told["back"] == "Grüße, 日本 \n!" and told["end"] == 256
    ours = logits_of(decoder(name), tokens)
    difference = np.abs(ours - np.load(back / "logits.npy")).max()
    assert difference <= (0.0 if name != "gpt2" else 1e-5) * np.abs(ours).max(), difference
    again = hf.read(back)  # what transformers wrote itself
    assert np.abs(logits_of(again, tokens) - ours).max() == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["grouped", "gpt2"])
def test_twenty_steps_of_training_are_those_of_transformers(name, tmp_path):
    from gyral.config.training import Optim
    from gyral.model.stream import rows_of
    from gyral.model.tasks.next_token import NextToken, Text
    from gyral.train.optim import Optimizer

    layout, shape = SHAPES[name]
    model = seeded(7, lambda: build_net(layout, shape, 64))
    out = tmp_path / "out"
    start = Decoder(shape, 64, layout, dict(model.state_dict()), "bytes", b"", 256)
    hf.write(start, out)
    tokens = np.random.default_rng(0).integers(97, 123, (4, 41))
    np.save(out / "tokens.npy", tokens)
    theirs = asked(out, tmp_path / "back", 20)["losses"]
    task = NextToken(shape, 40, Text([]), layout=layout)
    optimizer = Optimizer(model, Optim(rate=1e-3, schedule="constant", warmup=0), 20)
    for group in optimizer.inner.param_groups:
        group["weight_decay"] = 0.1  # transformers' own groups are not asked for: all decay
    batch = rows_of(tokens.astype(np.uint32), np.zeros(tokens.shape, np.int64))
    ours = []
    for step in range(20):
        sums = task.loss(model, batch, lambda tensor: tensor)
        (sums.loss / sums.weight).backward()
        ours.append(float(sums.loss.detach() / sums.weight))
        optimizer.step(step)
        optimizer.zero_grad()
    assert ours[-1] < ours[0] - 0.5
    assert np.abs(np.array(ours) - theirs).max() <= 1e-5

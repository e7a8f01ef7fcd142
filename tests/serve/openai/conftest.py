"""A language model of random weights, and a real server process that answers with it."""

import contextlib
import json
import subprocess
import sys
from dataclasses import asdict, replace

import openai
import pytest
import torch

from gyral.model import card as cards
from gyral.model.card import Card, Compression, Weights
from gyral.model.lm import LM
from gyral.model.nets.llama import Shape
from gyral.model.task import seeded
from gyral.model.tasks.next_token import build_net

from ... import verbs

SHAPE = Shape(257, 32, 2, 4, 2, 64)
LENGTH = 256


def publish_lm(root, seed=1, name="tiny", layout="llama", length=LENGTH, made_from=""):
    """The next version of a model over bytes, far from uniform; `made_from`: what its card says it was compressed from."""
    shape = SHAPE if layout == "llama" else replace(SHAPE, kv_heads=4)
    model = seeded(seed, lambda: build_net(layout, shape, length))
    torch.manual_seed(seed)
    for param in model.parameters():
        if param.dim() > 1:
            torch.nn.init.normal_(param, std=0.3)
    arrays = {key: value.numpy() for key, value in model.state_dict().items() if key != "logits.weight"}
    settings = {"shape": asdict(shape), "length": length, "layout": layout}
    card = Card(family="lm")
    if made_from:
        card.compression = Compression("int8", made_from, 1.0, 1.0, 0.0, 0.01, 2, 1)
    card = cards.publish(root, name, Weights(arrays, settings), None, card)
    return root / "models" / card.model


@pytest.fixture(scope="session")
def lm_root(tmp_path_factory):
    """A project with the model `tiny@1`."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("lm")
    publish_lm(root)
    return root


@pytest.fixture(scope="session")
def reader(lm_root):
    """The model in this process."""
    return LM.load(lm_root / "models" / "tiny@1")


SMALL = ("decode.running=16", "decode.waiting=40", "decode.patience_s=1e6")


@contextlib.contextmanager
def started(root, model="tiny", *sets):
    """`gyral serve`, its address and process."""
    command = [sys.executable, "-P", "-m", "gyral", "serve", str(model), "--root", str(root), "--port", "0", "--json"]
    command += [word for each in sets for word in ("--set", each)]
    with open(root / "notes", "ab+") as notes, verbs.popen(command, stdout=subprocess.PIPE, stderr=notes) as child:
        try:
            line = child.stdout.readline()
            notes.seek(0)
            assert line, notes.read().decode()
            yield json.loads(line)["url"], child
            child.terminate()
            assert child.wait(30) in (0, 143), (root / "notes").read_text()
        finally:
            child.kill()
            child.wait()


@pytest.fixture(scope="session")
def server(lm_root):
    """Its address."""
    with started(lm_root, "tiny", *SMALL) as (url, _):
        yield url


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0, timeout=60) as found:
        yield found

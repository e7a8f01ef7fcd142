"""A language model of random weights, and a real server process that answers with it."""

import json
import subprocess
import sys
from dataclasses import asdict, replace

import openai
import pytest
import torch

from gyral.model import card as cards
from gyral.model.card import Card, Weights
from gyral.model.lm import LM
from gyral.model.nets.llama import Shape
from gyral.model.task import seeded
from gyral.model.tasks.next_token import build_net

SHAPE = Shape(257, 32, 2, 4, 2, 64)
LENGTH = 256


def publish_lm(root, seed=1, name="tiny", layout="llama"):
    """The next version of a model over bytes, far from uniform."""
    shape = SHAPE if layout == "llama" else replace(SHAPE, kv_heads=4)
    model = seeded(seed, lambda: build_net(layout, shape, LENGTH))
    torch.manual_seed(seed)
    for param in model.parameters():
        if param.dim() > 1:
            torch.nn.init.normal_(param, std=0.3)
    arrays = {key: value.numpy() for key, value in model.state_dict().items() if key != "logits.weight"}
    settings = {"shape": asdict(shape), "length": LENGTH, "layout": layout}
    card = cards.publish(root, name, Weights(arrays, settings), None, Card(family="lm"))
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


@pytest.fixture(scope="session")
def server(lm_root):
    """Its address, the process, and its folder."""
    command = [sys.executable, "-P", "-m", "gyral", "serve", "tiny", "--root", str(lm_root), "--port", "0", "--json"]
    command += ["--set", "decode.running=16", "--set", "decode.waiting=40", "--set", "decode.patience_s=1e6"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    line = child.stdout.readline()
    assert line, child.stderr.read().decode()
    yield json.loads(line)["url"]
    child.terminate()
    try:
        child.wait(20)
    finally:
        child.kill()
        child.wait()
        for pipe in (child.stdout, child.stderr):
            pipe.close()


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0, timeout=60) as found:
        yield found

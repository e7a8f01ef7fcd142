"""Small models of each kind, published as training publishes them, and one export of them."""

from dataclasses import asdict

import numpy as np
import torch

from gyral.compress.export.verb import export
from gyral.model import card as cards
from gyral.model.card import Card, Weights
from gyral.model.nets.llama import Shape
from gyral.model.task import seeded
from gyral.model.tasks.next_token import build_net
from gyral.run import Run

SHAPE = Shape(257, 64, 2, 4, 2, 96)


def language_model(project, shape=SHAPE, layout="llama", tokenizer=b"", dataset="gone@1", spread=4.0, twice=False, **settings):
    """A decoder with random weights, wide enough that its answers differ; returns its module. `twice`: a tied matrix is."""
    net = seeded(3, lambda: build_net(layout, shape, 64)).eval()
    with torch.no_grad():
        for param in net.parameters():
            if param.dim() == 2:
                param.mul_(spread)
    state = {name: value.detach().numpy() for name, value in net.state_dict().items()}
    arrays = {name: value for name, value in state.items() if twice or not (shape.tied and name == "logits.weight")}
    told = {"shape": asdict(shape), "length": 64, "layout": layout, "tokens": "bytes", **settings}
    files = {"tokenizer.json": tokenizer} if tokenizer else {}
    cards.publish(project.root, "pages", Weights(arrays, told), None, Card(family="lm", dataset=dataset), files)
    return net


def exported_as(project, to, name="pages", out=None, max_loss=0.5):
    """Export a model; its manifest and folder."""
    config = project.config(compress__to=to, compress__max_loss=max_loss)
    with Run.start(project.root, "compress", config) as run:
        return export(project.root, name, config, run, out)


def logits_of(net, tokens):
    """What a decoder says of one row of tokens, [T, V]."""
    with torch.no_grad():
        return net(torch.tensor([tokens]), torch.arange(len(tokens))[None])[0].numpy()


def log_softmax(x):
    """By numpy, in float64."""
    x = np.asarray(x, np.float64)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))

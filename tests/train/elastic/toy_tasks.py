"""What members of tests learn, over the project's own documents: a language model, tasks that compare rows, and hard cases."""

import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from gyral.model.augment import Recipe
from gyral.model.nets import captions, two_tower, vit
from gyral.model.nets.llama import Shape
from gyral.model.pictures import Pictures
from gyral.model.recommender import Interactions
from gyral.model.sequences import Sequences
from gyral.model.task import BaseTask, Sums
from gyral.model.tasks.contrastive import Contrastive
from gyral.model.tasks.distill_self import SelfDistilled, Teaching
from gyral.model.tasks.next_token import NextToken, Text
from gyral.model.tasks.retrieval import Retrieval

ROOT = Path(__file__).resolve().parents[3]
DOCUMENTS = sorted(ROOT.glob("docs/*.md"))
GUIDES = sorted(ROOT.glob("docs/**/*.md"))
SPIKES = (50, 51, 52, 53)
"""Steps of `spiky` that cannot be learned from: the guard leaves out three and goes back at the fourth."""


class Vector(BaseTask):
    """As many weights as one likes and a sleep for the work of a step: for the times of everything else."""

    num_rows = 100_000

    def __init__(self, num):
        self.num = num

    def build(self, seed):
        model = nn.Module()
        model.register_parameter("weight", nn.Parameter(torch.zeros(self.num)))
        return model

    def batch(self, examples, step):
        return {"inputs": torch.from_numpy(examples)}

    def loss(self, model, batch, gather):
        time.sleep(0.02)
        return Sums(model.weight[batch["inputs"]].sum(), torch.tensor(float(len(batch["inputs"]))))


class Spiky(NextToken):
    """Some steps have a loss forty times as large."""

    def batch(self, examples, step):
        return {**super().batch(examples, step), "factor": torch.full((len(examples),), 40.0 if step in SPIKES else 1.0)}

    def loss(self, model, batch, gather):
        factor = float(batch.pop("factor")[0])
        sums = super().loss(model, batch, gather)
        return Sums(sums.loss * factor, sums.weight, sums.metrics)


class Halves(NextToken):
    """Its weights, all but the norms, are bf16."""

    def build(self, seed):
        model = super().build(seed)
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding) and "norm" not in name:
                module.to(torch.bfloat16)
        return model


def words(kind, width):
    texts, others = Text([path.read_bytes() for path in DOCUMENTS]), Text([ROOT.joinpath("README.md").read_bytes()[:2000]])
    return kind(Shape(Text.VOCAB, width, 2, 2, 2, 2 * width), 16, texts, others)


def pictures():
    """Paragraphs: their bytes as a picture of 8 x 8, their lines as captions."""
    found = [paragraph for path in GUIDES for paragraph in path.read_text().split("\n\n") if len(paragraph.encode()) > 192]
    pixels = np.stack([np.frombuffer(each.encode()[:192], np.uint8).reshape(8, 8, 3) for each in found])
    lines = [(line, number) for number, each in enumerate(found) for line in each.splitlines()]
    ids, concepts = [str(number) for number in range(len(found))], np.arange(len(found))
    texts, of = [line for line, _ in lines], np.array([number for _, number in lines])
    return Pictures(pixels, ids, concepts, texts, [""] * len(texts), of)


def contrastive(loss):
    shapes = vit.Shape(8, 4, 16, 1, 2, 32), captions.Shape(256, 16, 1, 2, 32), 8
    return Contrastive(*shapes, pictures(), pictures(), Recipe(jitter=0.5), 0, loss, rows=8, several=2)


def self_distilled():
    teaching = Teaching(prototypes=16, hidden=16, narrow=8, parts=2, part_side=4, momentum=0.9)
    recipes = Recipe((0.6, 1.0), jitter=0.5), Recipe((0.2, 0.5))
    return SelfDistilled(vit.Shape(8, 4, 16, 1, 2, 32), teaching, pictures(), pictures(), *recipes, 0)


def two_towers():
    """Documents meet their words, in the order in which they stand there."""
    met = [(document, word) for document, path in enumerate(GUIDES) for word in path.read_text().split()[:400]]
    names = sorted({word for _, word in met})
    place = {name: number for number, name in enumerate(names)}
    subjects = np.array([document for document, _ in met], np.int32)
    objects = np.array([place[word] for _, word in met], np.int32)
    times, countries = np.arange(len(met)) * 1_000_000, np.full(len(met), -1, np.int32)
    data = Interactions(subjects, objects, times, countries, len(GUIDES), len(names), 1)
    hashed = np.array([[len(name), ord(name[0])] for name in names]) % two_tower.NUM_WORDS
    shape = two_tower.Shape(len(GUIDES), 1, len(names), 8, 6, 16, 0.2)
    return Retrieval(shape, Sequences.of(data, 6), np.full(len(GUIDES), -1), hashed, 3)


def opened(name, width):
    """The task of a name."""
    if width < 0:
        return Vector(-width)
    return {
        "next_token": lambda: words(NextToken, width),
        "spiky": lambda: words(Spiky, width),
        "halves": lambda: words(Halves, width),
        "clip": lambda: contrastive("clip"),
        "siglip": lambda: contrastive("siglip"),
        "self_distilled": self_distilled,
        "two_tower": two_towers,
    }[name]()

"""Nets are compressed by the command's own path: what cards say is what served models give, and too much loss is refused."""

import cv2
import numpy as np
import pytest
import torch

from gyral.compress.quantize import relative_loss
from gyral.config.training import Optim
from gyral.errors import InputError, QualityError, UsageError
from gyral.files import versions
from gyral.lake import dataset as datasets
from gyral.model import card as cards
from gyral.model.card import Card, Weights
from gyral.model.lm import LM
from gyral.model.retrieval import recall
from gyral.model.vision import VISION
from gyral.model.vision_twin import VisionTwin
from gyral.run import Run
from gyral.train.optim import Optimizer
from gyral.train.tasks import open_task

SIZES = {"train__family": "lm", "lm__depth": 2, "lm__width": 64, "lm__heads": 2, "lm__hidden": 128, "lm__length": 64}
WORDS = ["the", "gyre", "turns", "what", "it", "carries", "comes", "back", "another", "day", "größe", "number", "page", "says"]


def learned(project, task, name, family, steps, batch):
    """Train a task for some steps and publish it."""
    torch.set_num_threads(1)
    model = task.build(0)
    optimizer = Optimizer(model, Optim(rate=1e-2, warmup=5), steps)
    random = np.random.default_rng(0)
    for step in range(steps):
        sums = task.loss(model, task.batch(random.integers(task.num_rows, size=batch), step), lambda tensor: tensor)
        (sums.loss / sums.weight).backward()
        optimizer.step(step)
        optimizer.zero_grad()
    arrays = {key: value.detach().numpy() for key, value in model.state_dict().items() if key != "logits.weight"}
    weights = task.finished(Weights(arrays, task.settings()))
    card = Card(family=family, dataset=f"{name}@1", metric=task.metric or LM.metric, measured_on="what was kept aside")
    return cards.publish(project.root, name, weights, None, card, task.files())


def timed(project, name, to):
    """The rows of the card once a variant was tried for a server."""
    from gyral.compress.tiers import compress_for_tiers

    told = {"compress__tiers": ["server"], "compress__tried": [to], "compress__max_loss": 1.0}
    config = project.config(**told)
    with Run.start(project.root, "compress", config) as run:
        return compress_for_tiers(project.root, name, config, run).variants


def curated(project, folder, stages):
    from gyral.curate.verb import curate

    config = project.config(curate__source=str(folder), curate__stages=stages, curate__name=folder.name)
    with Run.start(project.root, "curate", config) as run:
        curate(project.root, config, run)


@pytest.fixture
def pages(project, tmp_path):
    random = np.random.default_rng(1)
    (tmp_path / "pages").mkdir()
    for n in range(40):
        text = f"Page {n}: " + " ".join(random.choice(WORDS, int(random.integers(40, 90))))
        (tmp_path / "pages" / f"{n:03d}.txt").write_text(text)
    curated(project, tmp_path / "pages", ["extract", "repair", "digest"])
    task = open_task(project.root, "pages", project.config(**SIZES))
    learned(project, task, "pages", "lm", 60, 8)
    return project, task


@pytest.mark.slow
def test_every_variant_of_a_language_model_answers_as_its_card_says(pages, tmp_path):
    project, task = pages
    whole = LM.load(cards.find(project.root, "pages"))
    held_out, _ = task._held_out.rows(np.array([0]), len(task._held_out))
    texts = [bytes(each[:-1].astype(np.uint8)).decode() for each in np.split(held_out[0, 1:], task._held_out.ends[:-1])]
    before = whole.bits_per_byte(texts)
    assert before < 4
    sizes, losses = {}, {}
    fewer = ("prune-0", "prune-0.5", "prune-0.5+int8", "2:4", "2:4+int8", "2:4-magnitude", "rank-0.8", "rank-0.8+int4")
    for to in ("bf16", "int8", "int8-smooth", "int4", "int4-mixed", "int4-rtn", "int4-awq", *fewer):
        card = project.compress("pages", compress__to=to, compress__max_loss=1.0)
        made = card.compression
        assert card.model == f"pages-{to.replace(':', 'of')}@1" and abs(made.metric_before - before) < 1e-5
        served = LM.load(cards.find(project.root, card.model))
        assert abs(served.bits_per_byte(texts) - made.metric_after) < 1e-5
        assert made.relative_loss == pytest.approx(max(0.0, made.metric_after / made.metric_before - 1), abs=1e-5)
        assert served.complete("Page ", 10, temperature=0).text
        sizes[to], losses[to] = made.bytes_after, made.metric_after - made.metric_before
    assert sizes["bf16"] < 0.52 * made.bytes_before and sizes["int8"] < 0.28 * made.bytes_before
    assert sizes["int4"] == sizes["int4-rtn"] == sizes["int4-awq"] < sizes["int4-mixed"] < sizes["int8"]
    assert sizes["int4"] < 0.85 * sizes["int8"]
    assert sizes["prune-0"] == made.bytes_before and losses["prune-0"] == 0
    assert sizes["prune-0.5+int8"] < 0.6 * sizes["int8"] and sizes["prune-0.5"] < 0.6 * made.bytes_before
    assert sizes["2:4+int8"] < 0.75 * sizes["int8"] and sizes["2:4"] == sizes["2:4-magnitude"] < 0.65 * made.bytes_before
    assert losses["2:4"] < losses["2:4-magnitude"] and sizes["rank-0.8+int4"] < 0.3 * sizes["rank-0.8"]
    losses = {to: loss for to, loss in losses.items() if to not in fewer}
    assert losses["bf16"] < 0.003 and losses["int8"] < 0.02 and max(losses.values()) < 0.1
    with pytest.raises(UsageError, match="no zero"):
        project.compress("pages", compress__to="2:4+int4", compress__max_loss=1.0)
    with pytest.raises(UsageError, match="compressed already"):
        project.compress("pages-int4")
    with pytest.raises(QualityError, match="bits_per_byte"):
        project.compress("pages", compress__to="int4-rtn", compress__max_loss=1e-7)
    assert len(versions(project.root / "models", "pages-int4-rtn")) == 1
    rows = timed(project, "pages", "prune-0.5")
    assert [each.unit for each in rows] == ["tokens", "tokens"] and rows[1].p50_ms["8"] < 1.2 * rows[0].p50_ms["8"]
    assert sum("server" in each.tiers for each in rows) == 1 and rows[1].size_bytes < rows[0].size_bytes
    from gyral.model import hf

    hf.write(hf.read(cards.find(project.root, "pages-int4")), tmp_path / "out")  # other tools get dense weights
    again = hf.read(tmp_path / "out")
    assert set(again.state) >= set(whole.model.state_dict()) - {"logits.weight"} and not again.packed


def test_less_is_better_for_some_metrics():
    assert relative_loss("bits_per_byte", 2.0, 2.5) == 0.25 and relative_loss("bits_per_byte", 2.0, 1.0) == 0
    assert relative_loss("r_at_1", 0.5, 0.4) == pytest.approx(0.2) and relative_loss("r_at_1", 0.4, 0.5) == 0
    assert relative_loss("r_at_1", 0.0, 0.5) == 0


def test_what_has_no_net_is_not_calibrated(shop):
    with pytest.raises(UsageError, match="no net that could be calibrated"):
        shop.compress("shop", compress__to="int4")


@pytest.mark.slow
def test_variants_of_a_model_of_pictures_answer_as_their_cards_say(project, tmp_path):
    folder = tmp_path / "drawings"
    folder.mkdir()
    lines = ["file_name,text"]
    random = np.random.default_rng(3)
    for at, place in enumerate((x, y) for x in range(8, 56, 8) for y in range(8, 56, 8)):
        picture = random.integers(150, 256, (64, 64, 3), dtype=np.uint8)
        cv2.circle(picture, place, 6 + at % 5, (0, 0, 220) if at % 2 else (220, 0, 0), -1)
        (folder / f"{at}.png").write_bytes(cv2.imencode(".png", picture)[1].tobytes())
        lines.append(f"{at}.png,A {'red' if at % 2 else 'blue'} ball {place[0]} by {place[1]}")
    (folder / "metadata.csv").write_text("\n".join(lines))
    curated(project, folder, ["pixels", "digest"])
    sizes = {"train__task": "contrastive", "vision__side": 16, "vision__width": 32, "vision__depth": 2, "vision__heads": 2}
    sizes |= {"vision__caption_width": 32, "vision__embed": 16, "vision__buckets": 256, "train__family": "vision"}
    task = open_task(project.root, "drawings", project.config(**sizes))
    learned(project, task, "drawings", "vision", 20, 16)
    data, held_out = datasets.find(project.root, "drawings"), task.held_out
    for to in ("int8", "int4", "bf16", "prune-0.5", "2:4+int8", "rank-0.9"):
        made = project.compress("drawings", compress__to=to, compress__max_loss=1.0).compression
        served = VISION.load(cards.find(project.root, f"drawings-{to.replace(':', 'of')}"))
        pictures, texts = served.embedder.pictures(held_out.pixels), served.embed_texts(list(held_out.texts))
        told = recall(texts, held_out.caption_concept, pictures, held_out.concept)
        assert abs(told - made.metric_after) < 1e-6 and made.bytes_after < made.bytes_before
        every = np.concatenate([task.trained.pixels, held_out.pixels])
        np.testing.assert_allclose(served.gallery, served.embedder.pictures(every), atol=1e-4)  # compared with their own kind
        if to not in ("int8", "int4", "bf16"):
            continue
        assert made.bytes_after < 0.65 * made.bytes_before
        whole = VISION.load(cards.find(project.root, "drawings")).embedder.pictures(held_out.pixels)
        assert (whole * pictures).sum(1).min() > 0.97  # cosine
    rows = timed(project, "drawings", "prune-0.5")
    assert [each.unit for each in rows] == ["pictures", "pictures"] and min(each.per_s for each in rows) > 10
    weights = cards.read_weights(cards.find(project.root, "drawings"))
    with pytest.raises(InputError, match="masked"):
        VisionTwin(data, Weights({}, {**weights.settings, "task": "masked"}), 0)

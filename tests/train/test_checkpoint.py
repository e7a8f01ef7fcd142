"""Checkpoints: what is saved is what is loaded, by any cut of the model; torch's own reader is the oracle of the format."""

import copy
import json
import threading
import warnings

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file

from gyral.config.training import Optim
from gyral.errors import InputError, RankError
from gyral.model.nets.llama import Shape
from gyral.model.tasks.next_token import NextToken, Text
from gyral.train import loop, saved
from gyral.train.checkpoint import Checkpoints
from gyral.train.loader import Order
from gyral.train.optim import Optimizer
from gyral.train.parallel.strategy import Alone


def a_task(tied=True, depth=2, width=32):
    rng = np.random.default_rng(0)
    texts = [bytes(rng.integers(97, 107, 400, dtype=np.uint8)) for _ in range(20)]
    return NextToken(Shape(Text.VOCAB, width, depth, 2, 1, 48, tied), 16, Text(texts))


class Training:
    """One process's training that can be saved and loaded anywhere."""

    def __init__(self, folder, task=None, **options):
        self.task, self.strategy = task or a_task(), Alone()
        self.model = self.strategy.place(self.task, self.task.build(options.pop("seed", 3)))
        self.optimizer = Optimizer(self.model, Optim(warmup=2), 20)
        self.order = Order(self.task.num_rows, 8, 5)
        self.checkpoints = Checkpoints(folder, self.model, self.optimizer, self.strategy, self.order, **options)
        self.position = loop.Position()

    def run(self, steps):
        losses = []
        settings = loop.Settings(self.position.step + steps, 8)
        watch = [lambda step: losses.append(step.loss)]
        loop.train(self.task, self.model, self.strategy, self.optimizer, settings, self.order, self.position, watch)
        return losses

    def save(self):
        self.checkpoints.save(self.position)
        self.checkpoints.wait()
        return saved.read(self.checkpoints.folder, self.position.step)


def test_a_loaded_run_goes_on_as_if_nothing_had_happened(tmp_path):
    first = Training(tmp_path)
    first.run(4)
    found = first.save()
    expected = first.run(3)
    second = Training(tmp_path, seed=99)
    second.position = second.checkpoints.begin(4)
    assert second.run(3) == expected  # bit for bit: nothing was left behind
    assert found.manifest.pins.steps == 0 and found.manifest.order == {"num_rows": first.order.num_rows, "batch": 8, "seed": 5}


def test_a_save_is_of_the_moment_it_was_asked_for(tmp_path):
    first = Training(tmp_path)
    first.run(2)
    first.checkpoints.save(first.position)
    expected = first.run(3)  # meanwhile it is written
    first.checkpoints.wait()
    second = Training(tmp_path, seed=99)
    second.position = second.checkpoints.begin(2)
    assert second.run(3) == expected


def test_torchs_own_reader_reads_it_and_nothing_in_it_is_a_pickle(tmp_path):
    first = Training(tmp_path)
    first.run(2)
    found = first.save()
    wanted = {f"model.{name}": torch.zeros_like(param) for name, param in first.model.named_parameters()}
    wanted |= {f"optimizer.{name}.exp_avg_sq": torch.zeros_like(param) for name, param in first.model.named_parameters()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.load(wanted, storage_reader=dcp.HuggingFaceStorageReader(str(found.folder)), no_dist=True)
    for name, param in first.model.named_parameters():
        assert torch.equal(wanted[f"model.{name}"], param)
        assert torch.equal(wanted[f"optimizer.{name}.exp_avg_sq"], first.optimizer.inner.state[param]["exp_avg_sq"])
    assert sorted(path.name for path in found.folder.iterdir()) == ["manifest.json", "rank0.safetensors"]
    held = load_file(found.folder / "rank0.safetensors")
    assert held.keys() == {each for each in found.manifest.files and held} and "model.embed.weight" in held
    json.loads((found.folder / "manifest.json").read_text())


def test_a_flipped_bit_is_found_and_the_one_before_is_used(tmp_path):
    first = Training(tmp_path)
    for _ in range(2):
        first.run(2)
        first.save()
    path = tmp_path / "checkpoints" / "4" / "rank0.safetensors"
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 4
    path.write_bytes(body)
    told = []
    assert saved.newest(tmp_path, told.append).manifest.step == 2
    assert len(told) == 1 and "step 4" in told[0] and "rank0.safetensors" in told[0]
    assert first.checkpoints.latest().manifest.step == 2
    (tmp_path / "checkpoints" / "2" / "manifest.json").write_text("{")
    assert saved.newest(tmp_path, told.append) is None and "manifest" in told[-1]


def test_as_many_are_kept_as_asked_and_a_bad_one_never_costs_a_good_one(tmp_path):
    first = Training(tmp_path, keep=2)
    for _ in range(3):
        first.run(1)
        first.save()
    assert saved.steps_of(tmp_path) == [2, 3]
    path = tmp_path / "checkpoints" / "3" / "rank0.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    saved.prune(tmp_path, 1)
    assert saved.steps_of(tmp_path) == [2] and saved.newest(tmp_path).manifest.step == 2


def test_a_failed_save_is_told_at_the_next(tmp_path, monkeypatch):
    first = Training(tmp_path)
    first.run(1)
    (tmp_path / "checkpoints").write_text("a file is in the way")
    first.checkpoints.save(first.position)
    with pytest.raises(OSError):
        first.checkpoints.wait()


def test_another_model_is_refused(tmp_path):
    first = Training(tmp_path)
    first.run(1)
    first.save()
    with pytest.raises(InputError, match=r"no `model\.blocks\.2"):
        Training(tmp_path, a_task(depth=3)).checkpoints.begin(1)
    with pytest.raises(InputError, match="another model"):
        Training(tmp_path, a_task(width=64)).checkpoints.begin(1)
    other = Training(tmp_path)
    other.checkpoints.order = Order(other.task.num_rows - 1, 8, 5)
    with pytest.raises(InputError, match="num_rows"):
        other.checkpoints.begin(1)


class Table:
    """Ranks as threads: what each says is told to all."""

    def __init__(self, count):
        self.barrier, self.said = threading.Barrier(count, timeout=20), [b""] * count

    def seat(self, rank):
        def exchange(text):
            self.said[rank] = text
            self.barrier.wait()
            heard = list(self.said)
            self.barrier.wait()
            return heard

        return exchange


def stage(training, blocks, is_first, is_last):
    """A stage of a pipeline: the same class with other parts deleted; a tied matrix is held by both ends."""
    model = copy.deepcopy(training.model)
    for name in list(model.blocks):
        if name not in blocks:
            del model.blocks[name]
    if not is_first:
        model.embed = None
    if not is_last:
        model.norm = model.logits = None
    return model


def with_state(training, model):
    """An optimizer of a part of a model, with the whole one's state."""
    optimizer = Optimizer(model, Optim(), 20)
    names = dict(training.model.named_parameters(remove_duplicate=False))
    for name, param in model.named_parameters():
        optimizer.inner.state[param] = copy.deepcopy(training.optimizer.inner.state[names[name]])
    return optimizer


@pytest.mark.parametrize("tied", [True, False])
def test_stages_of_a_pipeline_save_what_one_process_loads_and_the_other_way(tmp_path, tied):
    whole = Training(tmp_path / "whole", a_task(tied))
    whole.run(3)
    table = Table(2)
    stages = [stage(whole, ["0"], True, False), stage(whole, ["1"], False, True)]
    optimizers = [with_state(whole, each) for each in stages]

    def save(rank):
        made = Checkpoints(
            tmp_path / "staged", stages[rank], optimizers[rank], Alone(), whole.order, rank=rank, count=2,
            exchange=table.seat(rank),
        )  # fmt: skip
        made.save(whole.position)
        made.wait()

    threads = [threading.Thread(target=save, args=(rank,)) for rank in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    found = saved.newest(tmp_path / "staged")
    assert sorted(found.manifest.files) == ["rank0.safetensors", "rank1.safetensors"]
    again = Training(tmp_path / "staged", a_task(tied), seed=8)
    again.position = again.checkpoints.begin(3)
    whole.save()
    expected = whole.run(3)
    assert again.run(3) == expected
    for number, model in enumerate(stages):
        for param in model.parameters():
            param.data.zero_()
        back = Checkpoints(tmp_path / "whole", model, optimizers[number], Alone(), whole.order)
        back.begin(3)
        assert all(param.abs().sum() > 0 for param in model.parameters())
        assert all(optimizers[number].inner.state[param]["exp_avg"].abs().sum() > 0 for param in model.parameters())


def test_ranks_that_have_the_same_share_the_writing(tmp_path):
    whole = Training(tmp_path)
    whole.run(1)
    table = Table(3)

    def save(rank):
        made = Checkpoints(
            tmp_path, whole.model, whole.optimizer, Alone(), whole.order, rank=rank, count=3, exchange=table.seat(rank)
        )
        made.save(whole.position)
        made.wait()

    threads = [threading.Thread(target=save, args=(rank,)) for rank in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    sizes = [mark.size_bytes for mark in saved.newest(tmp_path).manifest.files.values()]
    total = sum(3 * 4 * param.numel() for param in whole.model.parameters())
    assert len(sizes) == 3 and max(sizes) < 0.5 * total
    again = Training(tmp_path, seed=8)
    again.position = again.checkpoints.begin(1)
    assert again.run(2) == whole.run(2)


class Average:
    """A part with a state of its own: tensors by names with dots, and numbers."""

    def __init__(self, model, num):
        self.num, self.shadow = num, {name: param.detach() * 0 + num for name, param in model.named_parameters()}

    def state(self):
        return {"num": self.num, "losses": [1.5, 2.5], "shadow": self.shadow}

    def load(self, state):
        self.num, self.losses = state["num"], state["losses"]
        assert state["shadow"].keys() == self.shadow.keys()


def test_further_parts_come_back_and_a_tied_name_is_found_by_a_stage(tmp_path):
    first = Training(tmp_path)
    first.run(1)
    options = {"parts": {"ema": Average(first.model, 7)}}
    made = Checkpoints(tmp_path, first.model, first.optimizer, first.strategy, first.order, **options)
    made.save(first.position)
    made.wait()
    last = stage(first, ["1"], False, True)
    average = Average(last, 0)
    Checkpoints(tmp_path, last, Optimizer(last, Optim(), 9), Alone(), first.order, parts={"ema": average}).begin(1)
    assert average.num == 7 and average.losses == [1.5, 2.5]
    assert "logits.weight" in average.shadow and all((tensor == 7).all() for tensor in average.shadow.values())


def test_a_save_waits_for_the_one_before_and_a_rank_that_never_wrote_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("gyral.train.checkpoint.WAIT_S", 0.3)
    first = Training(tmp_path, rank=0, count=2, exchange=lambda text: [text, b"same" if text in (b"new", b"same") else b"[]"])
    first.run(1)
    first.checkpoints.save(first.position)
    with pytest.raises(RankError, match="part of rank 1"):
        first.checkpoints.wait()
    assert saved.newest(tmp_path) is None

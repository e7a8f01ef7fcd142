"""Fewer weights: what heads and channels, two of four, ranks, blocks and tables of recommenders cost, beside int8 and int4.

- `lm`: a model over bytes (1 million parameters), trained `STEPS` steps on the documents of this repository, nine tenths of
  them; bits per byte of the others, bytes in the file, CPU time of eight prompts of 64 tokens, all variants in turn.
- `tables`: ml-100k in time order, the last fifth asked about: EASE with transitions, and rows of the bundled purchases.
- `exit`: the same lm without its last blocks, its last norm fitted to what the whole model gives (least squares): as a model of
  its own, and left by each token as soon as the likeliest token has `SURE` of the probability.

Written before measuring: pruning .2 with the fit costs less than 3 % and without it twice that; SparseGPT costs half of what
size alone does; halves by rank cost more than 2:4 of the same bytes; tables in int4 cost less than 1 %, hashing more than 10 %;
leaving after half of the blocks costs more than 10 %, so it is not worth a target.

Command: .venv/bin/python benchmarks/compress/fewer.py [lm|tables|exit …] (6 CPU-minutes)
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "recommender"))

import numpy as np
import torch
import torch.nn.functional as F
from measure import write
from safetensors.numpy import load_file, save_file

from gyral.compress import chain
from gyral.model import decoder
from gyral.model.card import Weights
from gyral.model.family import RECOMMENDER
from gyral.model.lm import LM
from gyral.model.lm_twin import feed_of
from gyral.model.nets.llama import Shape
from gyral.model.quant import structured
from gyral.model.quant.calibration import Calibration
from gyral.model.stream import Text, rows_of
from gyral.model.tasks.next_token import bits_of, build_net, inputs_of

ROOT = Path(__file__).resolve().parents[2]
STEPS, LENGTH, ROWS = int(os.environ.get("STEPS", "1500")), 128, 16
SHAPE = Shape(257, 128, 4, 4, 2, 384)
KEPT = Path(os.environ.get("KEPT", str(ROOT / ".benchmark-lm.safetensors")))
TARGETS = os.environ.get(
    "TARGETS", "int8,int4,prune-0.2,prune-0.5,prune-0.2+int8,2:4,2:4-wanda,2:4-magnitude,2:4+int8,rank-0.7,rank-0.5"
).split(",")
MEASURED = int(os.environ.get("MEASURED", "24000"))
"""Bytes that are kept aside, at most."""
SURE = (0.99, 0.95, 0.9, 0.7)
ROUNDS = 3


class Texts:
    """The documents of the repository, a tenth of them kept aside."""

    def __init__(self) -> None:
        found = [
            path
            for path in sorted(ROOT.rglob("*.md"))
            if not {".venv", "fragments"} & {*path.parts} and path.stat().st_size > 500
        ]
        bodies = [path.read_bytes() for path in found]
        held_out = [b"".join(bodies[::10])[:MEASURED]]
        self.held_out, self.trained = Text(held_out), Text([each for at, each in enumerate(bodies) if at % 10])


def learned(texts: Texts) -> Weights:
    """The model, trained once and kept in `KEPT`."""
    settings: dict[str, Any] = {"shape": asdict(SHAPE), "length": LENGTH, "layout": "llama"}
    if KEPT.exists():
        return Weights(load_file(KEPT), settings)
    torch.manual_seed(0)
    net = build_net("llama", SHAPE, LENGTH)
    optimizer = torch.optim.AdamW(net.parameters(), betas=(0.9, 0.95), weight_decay=0.05)
    random, num = np.random.default_rng(0), texts.trained.num_sequences(LENGTH)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1, (step + 1) / 50) * (1 - 0.95 * step / STEPS)
        batch = rows_of(*texts.trained.sequences(random.integers(num, size=ROWS), LENGTH))
        loss = F.cross_entropy(net(*inputs_of(batch)).transpose(1, 2), batch["targets"], ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    arrays = {name: value.detach().numpy() for name, value in net.state_dict().items() if name != "logits.weight"}
    save_file(arrays, KEPT)
    return Weights(arrays, settings)


class Twin:
    """What `gyral compress` asks of a language model."""

    def __init__(self, weights: Weights, texts: Texts) -> None:
        self.weights, self._texts = weights, texts

    def measure(self, weights: Weights) -> float:
        model = decoder.of_weights(weights).build()
        return float(bits_of(model, self._texts.held_out, LENGTH, SHAPE.vocab).sum()) / self._texts.held_out.num_bytes

    def batches(self) -> list[Any]:
        trained = self._texts.trained
        places = np.sort(np.random.default_rng(1).choice(trained.num_sequences(LENGTH), 128, replace=False))
        return [rows_of(*trained.sequences(places[at : at + 32], LENGTH)) for at in range(0, 128, 32)]

    def calibration(self) -> Calibration:
        def build(weights: Weights) -> torch.nn.Module:
            copied = {name: array.copy() for name, array in weights.arrays.items()}
            return decoder.of_weights(Weights(copied, weights.settings)).build()

        return Calibration(build, [feed_of(batch) for batch in self.batches()], ("blocks",))


def of_lm(texts: Texts) -> dict[str, Any]:
    """All targets, and `prune` without its fit."""
    twin = Twin(learned(texts), texts)
    dense = twin.measure(twin.weights)
    made: dict[str, Weights] = {"as it is": twin.weights}
    told: dict[str, Any] = {}
    for to in TARGETS:
        begin = time.process_time()
        made[to] = chain.shrunk(to, twin, twin.weights, LM)
        told[to] = {"made_cpu_s": time.process_time() - begin}
        print(to, told[to], file=sys.stderr, flush=True)
    fit = structured.fitted
    structured.fitted = lambda weight, gram, kept: weight[:, kept]
    for to in ("prune-0.2", "prune-0.5"):
        made[f"{to} without the fit"] = chain.shrunk(to, twin, twin.weights, LM)
    structured.fitted = fit
    milliseconds = in_turn({name: decoder.of_weights(each).build() for name, each in made.items()})
    for name, weights in made.items():
        after = twin.measure(weights)
        size = sum(array.nbytes for array in weights.arrays.values())
        told[name] = told.get(name, {}) | {
            "bits_per_byte": after, "relative": after / dense - 1, "bytes": size, "ms": milliseconds[name],
            "time": milliseconds[name] / milliseconds["as it is"],
        }  # fmt: skip
        print(f"{name:<28} {after:.4f} {100 * (after / dense - 1):+.2f} % {size:>9,} {told[name]['time']:.2f}", file=sys.stderr)
    return told


@torch.inference_mode()
def in_turn(models: dict[str, torch.nn.Module]) -> dict[str, float]:
    """CPU milliseconds of eight prompts of 64 tokens, the median of rounds in turn."""
    tokens = torch.randint(SHAPE.vocab, (8, 64), generator=torch.Generator().manual_seed(0))
    places = torch.arange(64)[None].expand(8, -1)
    found: dict[str, list[float]] = {name: [] for name in models}
    for number in range(ROUNDS + 1):
        for name, model in models.items():
            begin = time.process_time()
            for _ in range(3):
                model(tokens, places)
            if number:
                found[name].append((time.process_time() - begin) / 3 * 1e3)
    return {name: float(np.median(each)) for name, each in found.items()}


@torch.inference_mode()
def of_exit(texts: Texts) -> dict[str, Any]:
    """Without the last blocks, with a norm of its own; and by confidence, token for token."""
    twin = Twin(learned(texts), texts)
    net: Any = decoder.of_weights(twin.weights).build()
    gains: dict[int, torch.Tensor] = {}
    sums = {depth: torch.zeros(2, SHAPE.width, dtype=torch.float64) for depth in range(1, SHAPE.depth)}
    for batch in twin.batches():
        streams = _streams(net, batch)
        whole = net.norm(streams[-1]).double()
        for depth in sums:
            plain = F.rms_norm(streams[depth], (SHAPE.width,), eps=SHAPE.eps).double()
            sums[depth] += torch.stack([(plain * whole).sum((0, 1)), plain.square().sum((0, 1))])
    for depth, (both, own) in sums.items():
        gains[depth] = (both / own).float()
    held_out = texts.held_out
    nats = {depth: 0.0 for depth in [*gains, SHAPE.depth]}
    left = {sure: [0.0, 0.0, 0.0] for sure in SURE}  # nats, blocks run, tokens
    for tokens, documents, counted in held_out.windows(LENGTH, LENGTH, 32):
        batch = rows_of(tokens, documents)
        streams, mask = _streams(net, batch), torch.from_numpy(counted)
        each = {
            depth: net.logits(F.rms_norm(streams[depth], (SHAPE.width,), eps=SHAPE.eps) * gain) for depth, gain in gains.items()
        }
        each[SHAPE.depth] = net.logits(net.norm(streams[-1]))
        losses = {
            depth: F.cross_entropy(logits.transpose(1, 2), batch["targets"], ignore_index=-100, reduction="none")[mask]
            for depth, logits in each.items()
        }
        for depth, loss in losses.items():
            nats[depth] += float(loss.double().sum())
        for sure, sum_ in left.items():
            is_open = torch.ones(int(mask.sum()), dtype=torch.bool)
            for depth, logits in each.items():
                goes = is_open if depth == SHAPE.depth else is_open & (logits.softmax(-1).amax(-1)[mask] >= sure)
                sum_[0] += float(losses[depth][goes].double().sum())
                sum_[1] += depth * int(goes.sum())
                sum_[2] += int(goes.sum())
                is_open = is_open & ~goes
    dense = nats[SHAPE.depth]
    bits = {depth: each / np.log(2) / held_out.num_bytes for depth, each in nats.items()}
    told = {
        "after": {depth: {"bits_per_byte": bits[depth], "relative": each / dense - 1} for depth, each in nats.items()},
        "sure": {
            sure: {"relative": lost / dense - 1, "blocks": blocks / num / SHAPE.depth}
            for sure, (lost, blocks, num) in left.items()
        },
    }
    print(told, file=sys.stderr)
    return told


def _streams(net: Any, batch: Any) -> list[torch.Tensor]:
    """The embedding and what each block gives."""
    found: list[torch.Tensor] = []
    handles = [block.register_forward_hook(lambda module, args, out: found.append(out)) for block in net.blocks.values()]
    first = net.blocks["0"].register_forward_pre_hook(lambda module, args: found.insert(0, args[0]))
    net.stream(*inputs_of(batch))
    for handle in (*handles, first):
        handle.remove()
    return found


def of_tables() -> dict[str, Any]:
    """NDCG@10 of the last fifth, bytes of the tables, and CPU microseconds of an answer, in turn."""
    from ml100k import ratings

    from gyral.model.holdout import hold_out, measure
    from gyral.model.recommender import Recommender, Spec, fit_with

    split = hold_out(ratings(), repeats=False, seed=0)
    known = (
        np.bincount(split.before.subject, minlength=split.before.num_subjects)[split.asked] > 0
    )  # the others get what is popular
    split = replace(
        split, asked=split.asked[known], met=[met for met, is_known in zip(split.met, known, strict=True) if is_known]
    )
    spec = replace(Spec("ease", lam=500.0, repeats=False), markov=1.0)
    fitted = fit_with(split.before, spec)
    weights = Weights(fitted.arrays, fitted.meta)
    names = ("item_item", "transition")

    class Measured:
        weights = None

    targets = ("int8", "rows-int4", "rows-pq8", "rows-pq16", "rows-hash-4")
    made = {"as it is": weights} | {to: chain.shrunk(to, Measured(), weights, RECOMMENDER) for to in targets}  # type: ignore[arg-type]
    models: dict[str, Recommender] = {name: Recommender(*each) for name, each in made.items()}
    asked = split.asked[:200].tolist()
    calls: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(ROUNDS + 1):
        for name, model in models.items():
            begin = time.process_time()
            model.recommend_many(asked, 10)
            calls[name].append((time.process_time() - begin) / len(asked) * 1e6)
    told: dict[str, Any] = {"objects": split.before.num_objects, "asked": len(split.asked)}
    for name, model in models.items():
        size = sum(array.nbytes for key, array in made[name].arrays.items() if key.startswith(names))
        told[name] = {"ndcg_at_10": measure(model, split)["ndcg_at_10"], "bytes": size, "us": float(np.median(calls[name][1:]))}
        each, whole = told[name], told["as it is"]
        each |= {"relative": each["ndcg_at_10"] / whole["ndcg_at_10"] - 1, "time": each["us"] / whole["us"]}
        print(name, {key: round(value, 4) for key, value in each.items()}, file=sys.stderr)
    return told


if __name__ == "__main__":
    torch.set_num_threads(1)
    asked = sys.argv[1:] or ["lm", "tables", "exit"]
    texts = Texts()
    parts: dict[str, Callable[[], Any]] = {"lm": lambda: of_lm(texts), "exit": lambda: of_exit(texts), "tables": of_tables}
    told = {name: parts[name]() for name in asked}
    name = "compress_tables" if asked == ["tables"] else "compress_fewer"
    write(name, {"steps": STEPS, "bytes_trained": texts.trained.num_bytes, **told})

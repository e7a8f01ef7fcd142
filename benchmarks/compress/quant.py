"""What few bits cost a converged language model: int4 by GPTQ and by AWQ against rounding to nearest, int8, bf16.

A model folder (`MODEL`, trained by `gyral train`) on its own held-out text, and SmolLM2-135M-Instruct (`smollm2.py`) on English
documentation, which it is calibrated on, too, other documents of it. Bits per byte by the very nets and kernels that answer,
one thread. `TOKENS` are measured, `CALIBRATED` watched; groups of 32, and 64 and 128 where `GROUP_SIZES` says so.

Written before measuring: the loss that GPTQ adds is at most half of what rounding to nearest adds; the file is within 5 % of
theory; int8 adds a tenth of what int4 by rounding does; bf16 nothing that can be seen. SmolLM2's weights stood on Q4_1's levels
of 32, so rounding may look good there at 32.

Command: [MODEL=PROJECT/models/NAME@N] .venv/bin/python benchmarks/compress/quant.py [small|smollm2 …] (20 CPU-minutes)
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "curate"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import torch
from measure import write

from gyral.compress import nets, quantize
from gyral.model import card as cards
from gyral.model import decoder
from gyral.model.card import Weights
from gyral.model.lm import LM
from gyral.model.lm_twin import feed_of
from gyral.model.quant import packing, recipe
from gyral.model.quant.calibration import Calibration
from gyral.model.quant.linear import kernels_of
from gyral.model.shards import encoded
from gyral.model.stream import Stream, Text, rows_of
from gyral.model.tasks.next_token import bits_of
from gyral.model.tokenizer import Tokenizer

TOKENS, CALIBRATED = int(os.environ.get("TOKENS", "4096")), int(os.environ.get("CALIBRATED", "8192"))
GROUPS = [int(each) for each in os.environ.get("GROUP_SIZES", "32").split(",")]
METHODS = os.environ.get("METHODS", "bf16,int8,int8-smooth,int4-rtn,int4,int4-mixed,int4-awq").split(",")


def prose() -> list[str]:
    """English pages, those of one title once, in an order that mixes them."""
    import prose as pages
    import pyarrow.parquet as pq

    table = pq.read_table(pages.prose()).to_pylist()
    found = sorted({row["text"] for row in table if row["language"] == "en" and len(row["text"]) > 1_000})
    return [found[at] for at in np.random.default_rng(0).permutation(len(found))]


def streams(found: decoder.Decoder) -> tuple[Stream, Stream]:
    """Text to measure on, and text to watch layers on: different documents."""
    texts = prose()
    if found.tokens == "bytes":
        sizes = np.cumsum([len(text.encode()) for text in texts])
        cut = int(np.searchsorted(sizes, TOKENS)) + 1
        return Text([text.encode() for text in texts[:cut]]), Text([text.encode() for text in texts[cut:]])
    tokenizer = Tokenizer(found.tokenizer)
    sizes = np.cumsum([len(text) / 4 for text in texts])
    first, second = int(np.searchsorted(sizes, TOKENS)) + 1, int(np.searchsorted(sizes, TOKENS + 2 * CALIBRATED)) + 2
    return encoded(texts[:first], tokenizer, found.end), encoded(texts[first:second], tokenizer, found.end)


def measured(folder: Path) -> dict[str, Any]:
    """All variants of one model."""
    weights, found = cards.read_weights(folder), decoder.read(folder)
    names = packing.chosen(weights, LM.matrices)
    length = min(found.length, 512)
    if (folder.parent.parent / "datasets").exists() and "held_out" in weights.settings and found.tokens == "bytes":
        from gyral.lake import dataset as datasets

        card = cards.read_card(folder)
        twin = LM.twin(datasets.find(folder.parent.parent, card.dataset), weights, card.seed, folder)
        how, measure = twin.calibration(), twin.measure
    else:
        held_out, trained = streams(found)
        rows = min(trained.num_sequences(length), CALIBRATED // length)
        batches = [rows_of(*trained.sequences(np.arange(at, min(at + 4, rows)), length)) for at in range(0, rows, 4)]

        def build(each: Weights) -> torch.nn.Module:
            copied = Weights({name: array.copy() for name, array in each.arrays.items()}, each.settings)
            return decoder.of_weights(copied).dense().build()

        def measure(each: Weights) -> float:
            model = decoder.of_weights(each).build()
            return float(bits_of(model, held_out, length, found.shape.vocab).sum()) / held_out.num_bytes

        how = Calibration(build, [feed_of(batch) for batch in batches], ("blocks",))
    dense = measure(weights)
    told: dict[str, Any] = {"model": folder.name, "bits_per_byte": dense, "matrices": len(names), "variants": {}}
    for group in GROUPS:
        for name, make in variants(weights, names, how, group).items():
            begin = time.process_time()
            small = make()
            took, after = time.process_time() - begin, measure(small)
            theory = _theory(weights, small, names)
            told["variants"][f"{name} g{group}"] = each = {
                "bits_per_byte": after, "delta": after - dense, "relative": (after - dense) / dense, "made_cpu_s": took,
                "bytes": _size(small), "theory_bytes": theory, "over_theory": _size(small) / theory - 1,
                "kernels": kernels_of(decoder.of_weights(small).build()),
            }  # fmt: skip
            print(folder.name, name, group, {key: each[key] for key in ("delta", "bytes", "made_cpu_s")}, file=sys.stderr)
    return told


def variants(weights: Weights, names: list[str], how: Calibration, group: int) -> dict[str, Callable[[], Weights]]:
    """By their names."""
    made: dict[str, Callable[[], Weights]] = {
        "bf16": lambda: nets.bf16(weights, names),
        "int8": lambda: quantize.int8(weights, names),
        "int8-smooth": lambda: recipe.packed_net(weights, names, how, "smooth"),
        "int4-rtn": lambda: recipe.rounded_net(weights, names, group=group),
        "int4": lambda: recipe.packed_net(weights, names, how, "gptq", group=group),
        "int4-mixed": lambda: nets.INT4_MIXED(weights, names, how),
        "int4-awq": lambda: recipe.packed_net(weights, names, how, "awq", group=group),
    }
    return {
        name: make
        for name, make in made.items()
        if name in METHODS and (group == GROUPS[0] or name in ("int4-rtn", "int4", "int4-awq"))
    }


def _size(weights: Weights) -> int:
    return sum(array.nbytes for array in weights.arrays.values())


def _theory(weights: Weights, small: Weights, names: list[str]) -> float:
    _, packed = packing.divided(small)
    rest = sum(array.nbytes for name, array in weights.arrays.items() if name not in names)
    return rest + sum(packing.stored_bytes(each.kind, each.shape, each.group or 1) for each in packed.values())


if __name__ == "__main__":
    torch.set_num_threads(1)
    asked = sys.argv[1:] or ["small", "smollm2"]
    result: dict[str, Any] = {"tokens": TOKENS, "calibrated": CALIBRATED}
    if "small" in asked:
        result["small"] = measured(Path(os.environ["MODEL"]))
    if "smollm2" in asked:
        from smollm2 import cache_folder, smollm2

        result["smollm2"] = measured(smollm2(cache_folder() / "benchmarks" / "smollm2"))
    for each in ("small", "smollm2"):
        for group in GROUPS:
            found = result.get(each, {}).get("variants", {})
            if f"int4 g{group}" in found and f"int4-rtn g{group}" in found:
                share = found[f"int4 g{group}"]["delta"] / found[f"int4-rtn g{group}"]["delta"]
                result.setdefault("gptq_of_rtn", {})[f"{each} g{group}"] = share
    write("compress_quant" + ("_smollm2" if asked == ["smollm2"] else ""), result)

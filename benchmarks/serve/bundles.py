"""What a new version of a model costs a device: whole, packed, by chunks that it lacks, or by a patch.

Successive versions are real ones: of a table of objects, one more day of the bundled shop learned (rows of what was not met
stay, new objects come in between); of a language model, sixty steps more, at a first rate and at one of fine-tuning; of the
closed form, one more slice of a loop that `--root` names. Chunks are what a server without the old version could offer: of a
fixed size, or cut by content (Gear, FastCDC's way); a chunk whose digest the device has costs its digest alone, the others are
packed by xz one by one. Says what each takes, and the CPU of making and of applying a patch.

    PYTHONPATH=src python benchmarks/serve/bundles.py [--root PROJECT_WITH_A_LOOP]
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import lzma
import os
import platform
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from safetensors.numpy import save

from gyral.serve.bundles.difference import difference
from gyral.serve.bundles.patch import apply

ROOT = Path(__file__).resolve().parents[2]
SIZES = (1 << 10, 4 << 10, 64 << 10)
DIGEST_BYTES = 32
GEAR = np.random.default_rng(7).integers(0, 1 << 63, 256, dtype=np.uint64)


def fixed(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def by_content(data: bytes, size: int) -> list[bytes]:
    """Cut where the Gear hash of the last 64 bytes has its upper bits zero; a quarter to four times of `size`."""
    found, step = GEAR[np.frombuffer(data, np.uint8)], 1
    while step < 64:  # h[i] = Σ_j gear[b[i − j]] << j, by doubling
        found[step:] += found[:-step].copy() << np.uint64(step)
        step *= 2
    places = np.flatnonzero(found >> np.uint64(64 - size.bit_length() + 1) == 0) + 1
    chunks, at = [], 0
    while at < len(data):
        next_at = int(np.searchsorted(places, at + size // 4))
        end = int(places[next_at]) if next_at < len(places) else len(data)
        end = min(end, at + 4 * size, len(data))
        chunks.append(data[at:end])
        at = end
    return chunks


def chunked(old: bytes, new: bytes, cut, size: int) -> int:
    known = {hashlib.blake2b(each).digest() for each in cut(old, size)}
    total = 0
    for each in cut(new, size):
        total += DIGEST_BYTES
        if hashlib.blake2b(each).digest() not in known:
            total += min(len(each), len(lzma.compress(each, preset=1)))
    return total


def row(name: str, old: bytes, new: bytes) -> dict[str, object]:
    began = time.process_time()
    patch = difference(old, new)
    made = time.process_time()
    if apply(old, patch) != new:
        raise SystemExit(f"the patch of {name} is wrong")
    applied = time.process_time()
    told = {"whole": len(new), "xz": len(lzma.compress(new, preset=6)), "patch": len(patch)}
    for size in SIZES:
        told[f"fixed {size >> 10} KiB"] = chunked(old, new, fixed, size)
        told[f"by content {size >> 10} KiB"] = chunked(old, new, by_content, size)
    return {"versions": name, **told, "make CPU-s": round(made - began, 3), "apply CPU-s": round(applied - made, 3)}


def tables(days: int = 6, width: int = 32) -> list[tuple[bytes, bytes]]:
    """A table of objects learned day by day: BPR with Adagrad, so only rows that were met, or drawn against them, change."""
    rows = pq.read_table(ROOT / "data" / "online_retail.parquet", columns=["StockCode", "InvoiceDate", "CustomerID"])
    rows = rows.drop_null().sort_by("InvoiceDate")
    day = rows["InvoiceDate"].cast("timestamp[s]").to_numpy().astype("datetime64[D]")
    last = np.unique(day)[-days:]
    rng, names = np.random.default_rng(0), np.array(rows["StockCode"].cast("string").to_pylist())
    _, subject_of = np.unique(np.array(rows["CustomerID"].cast("string").to_pylist()), return_inverse=True)
    vectors: dict[str, np.ndarray] = {}
    sums: dict[str, float] = {}
    people = rng.normal(0, 0.1, (subject_of.max() + 1, width)).astype(np.float32)
    versions = []

    def learn(mask: np.ndarray) -> None:
        for who, what in zip(subject_of[mask], names[mask], strict=True):
            if what not in vectors:
                vectors[what], sums[what] = rng.normal(0, 0.1, width).astype(np.float32), 0.1
            other = list_of[rng.integers(len(list_of))] if list_of else what
            if what == other:
                continue
            person, gap = people[who].copy(), vectors[what] - vectors[other]
            push = np.float32(1 / (1 + np.exp(person @ gap)))
            for name, sign in ((what, 1), (other, -1)):
                gradient = sign * push * person
                sums[name] += float((gradient**2).mean())
                vectors[name] = vectors[name] + np.float32(0.05 / sums[name] ** 0.5) * gradient
            people[who] = person + np.float32(0.05) * push * gap

    for end in (None, *last):
        list_of = sorted(vectors)
        learn((day < last[0]) & (rng.random(len(day)) < 0.2) if end is None else day == end)
        ordered = sorted(vectors)
        versions.append(save({"objects.weight": np.stack([vectors[name] for name in ordered])}))
    return list(itertools.pairwise(versions))[-3:]


def language(dtype: str = "float32") -> dict[str, tuple[bytes, bytes]]:
    """A Llama over the bytes of this repository's documents: 60 steps more at the first rate, and 60 at one of fine-tuning."""
    import torch

    from gyral.model.nets.llama import Llama, Shape
    from gyral.model.stream import rows_of
    from gyral.model.tasks.next_token import inputs_of

    torch.manual_seed(0)
    torch.set_num_threads(1)
    paths = [*sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "src").rglob("*.py"))]
    text = b"\n".join(path.read_bytes() for path in paths)
    data = np.frombuffer(text, np.uint8).astype(np.uint32)
    model = Llama(Shape(257, 128, 3, 4, 4, 384))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    rng, length = np.random.default_rng(0), 96

    def steps(count: int, rate: float) -> float:
        loss = torch.zeros(())
        for group in optimizer.param_groups:
            group["lr"] = rate
        for _ in range(count):
            starts = rng.integers(0, len(data) - length - 1, 8)
            batch = rows_of(np.stack([data[at : at + length + 1] for at in starts]), np.zeros((8, length + 1), np.int64))
            told = model(*inputs_of(batch))
            wanted = torch.from_numpy(np.stack([data[at + 1 : at + length + 1] for at in starts]).astype(np.int64))
            loss = torch.nn.functional.cross_entropy(told.reshape(-1, told.shape[-1]).float(), wanted.reshape(-1))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return float(loss)

    def version(kind: str) -> bytes:
        state = {name: value.detach() for name, value in model.state_dict().items() if name != "logits.weight"}
        if kind == "int8":
            matrices = {name: value for name, value in state.items() if value.dim() > 1}
            scales = {name: value.abs().amax(-1, keepdim=True).clamp_min(1e-9) / 127 for name, value in matrices.items()}
            packed = {name: (state[name] / scale).round().to(torch.int8).numpy() for name, scale in scales.items()}
            return save({**packed, **{f"{name}_scale": scale[..., 0].numpy() for name, scale in scales.items()}})
        if kind == "bfloat16":
            from safetensors.torch import save as save_torch

            return save_torch({name: value.to(torch.bfloat16).contiguous() for name, value in state.items()})
        return save({name: value.numpy() for name, value in state.items()})

    found, kinds = {}, ("float32", "bfloat16", "int8")
    steps(150, 3e-3)
    for label, rate in (("more training, rate 1e-3", 1e-3), ("fine-tuned, rate 1e-5", 1e-5)):
        before = {kind: version(kind) for kind in kinds}
        loss = steps(60, rate)
        for kind in kinds:
            found[f"lm {kind}, {label} (loss {loss:.2f})"] = (before[kind], version(kind))
    return found


def loops(root: Path) -> dict[str, tuple[bytes, bytes]]:
    """Bundles of the closed forms that a loop published: what devices get."""
    from gyral.model.family import RECOMMENDER

    found = {}
    for name in ("online_retail", "online_retail-int8"):
        for old, new in ((1, 2), (4, 5), (5, 6)):
            before, after = (RECOMMENDER.portable(root / "models" / f"{name}@{number}").files for number in (old, new))
            for file in sorted(before):
                found[f"{name} {old}→{new}, {file}"] = (before[file], after[file])
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path)
    given = parser.parse_args()
    pairs = {f"table of objects, day {number}": pair for number, pair in enumerate(tables(), 1)}
    pairs |= language() | (loops(given.root) if given.root else {})
    told = [row(name, *pair) for name, pair in pairs.items()]
    machine = {"machine": platform.machine(), "cpus": os.cpu_count(), "load": os.getloadavg()[0]}
    print(json.dumps({**machine, "seed": 0, "rows": told}, ensure_ascii=False))


if __name__ == "__main__":
    main()

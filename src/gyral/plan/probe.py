"""What this machine does, measured: products by shape and type, copies, sums over two processes, the disk. Under a minute.

A sheet says nothing of a laptop's cores, its neighbours or its libraries. Products are timed on a grid of (n, k, m), each side
from a narrow matrix to a wide one, because a rank's part of a sharded matrix is a narrow one; between the points the log of the
rate is interpolated, in the logs of the sides. Products and copies are those of one thread, by its CPU time, the least of some
tries: what others take from the machine is theirs. A rank of several threads is that many times as fast at best; waking them
costs more than a small product does. Sums over processes go over gloo, as `gyral train` sends them on processors, by the clock.

Memory that was never written costs more than a copy: the system maps it page by page, and clears each. An allocator gives small
tensors what others gave back, and takes large ones from the system each time anew (glibc: from 32 MiB on), some 15 times as
slow as writing them again. So logits, their softmax and their gradients are what a step of a small model with many tokens waits
for.

The file is `hardware.json` of the project, with date and load; `gyral doctor --probe` writes it.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from gyral import files
from gyral.errors import InputError, NotFound, RankError
from gyral.plan.figure import By
from gyral.plan.operations import Matmul, Walk

FILE = "hardware.json"
SIDES = ((32, 256, 2048), (64, 256, 1024), (64, 256, 1024))
"""Rows, inputs and outputs of products."""
ATTENDED = (4, 4, 256)
"""Rows, heads and positions."""
HEADS = (16, 64, 128)
"""Widths of a head: what a score costs besides its products is the same for all."""
EXPS = 1 << 18
COPIES = (1 << 14, 1 << 18, 1 << 22, 1 << 26)
NEW = (1 << 22, 31 << 20, 1 << 25, 1 << 26)
SUMS = (1 << 10, 1 << 16, 1 << 20, 1 << 24)
DISK_BYTES = 1 << 26
TRIES, TRY_S, SLOW_S, LEAST_S = 4, 0.15, 1.0, 1e-4
RANK_TIMEOUT_S = 120


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured.

    Attributes
    ----------
    products : type (`f32`, `bf16`) → FLOP/s at each point of `sides`, [n, k, m] in that order, row by row.
    attention : type → [width of a head, seconds of a score] of causal attention in one kernel, what it skips not counted.
    exp_s : seconds of one exponential of many.
    copy : [bytes, seconds] of copying so many bytes, which reads and writes them.
    new : [bytes, seconds] that writing a new tensor of so many bytes takes longer than writing it again.
    sums : [bytes, seconds] of an all-reduce over two processes of one thread each.
    disk_write, disk_read : bytes/s of a file that is flushed, and of one that was just written (from the system's cache).
    """

    at: str
    load: float
    sides: tuple[tuple[int, ...], ...]
    products: dict[str, list[float]]
    attention: dict[str, list[tuple[float, float]]]
    exp_s: float
    copy: list[tuple[float, float]]
    new: list[tuple[float, float]]
    sums: list[tuple[float, float]]
    disk_write: float
    disk_read: float

    def rate(self, n: float, k: float, m: float, kind: str = "f32") -> float:
        """FLOP/s of a product [n, k] [k, m]; outside of the grid that of its nearest edge."""
        grid = np.log(np.asarray(self.products[kind]).reshape([len(side) for side in self.sides]))
        for side, value in zip(self.sides, (n, k, m), strict=True):
            at = float(np.interp(np.log(max(value, 1)), np.log(side), np.arange(len(side))))
            low = min(int(at), len(side) - 2)
            grid = grid[low] * (low + 1 - at) + grid[low + 1] * (at - low)
        return float(np.exp(grid))

    def score_s(self, width: float, kind: str = "f32") -> float:
        """Seconds of a score of attention by the width of a head: linear between, in proportion above the widest."""
        widths, seconds = np.asarray(self.attention[kind], float).T
        return float(np.interp(width, widths, seconds) * max(width / widths[-1], 1.0))

    def new_s(self, size_bytes: float) -> float:
        """Seconds that the first write of a new tensor takes longer: by the byte, between measured sizes in their logs."""
        sizes, seconds = np.asarray(self.new, float).T
        return float(size_bytes * np.interp(np.log(max(size_bytes, 1.0)), np.log(sizes), seconds / sizes))


class Measured(NamedTuple):
    """A probe as a timer (`gyral.plan.steptime.Timer`) of ranks of one thread each on this machine."""

    probe: Probe

    @property
    def hidden(self) -> float:
        """Nothing: ranks of one machine share its cores, so an exchange takes time from the computing."""
        return 0.0

    @property
    def by(self) -> By:
        return "measured"

    def matmul_s(self, each: Matmul, number_bytes: int) -> float:
        """Of products, and of writing what they give for the first time; a score of attention is 4 FLOPs a number of a head."""
        kind = "bf16" if number_bytes <= 2 else "f32"
        if each.fused:
            return each.flops / (4 * each.columns) * self.probe.score_s(each.columns, kind)
        n, m = each.rows or SIDES[0][1], each.columns or SIDES[2][0]
        k = each.flops / (2 * n * m * each.num) if each.rows else SIDES[1][0]
        return each.flops / self.probe.rate(n, k, m, kind) + each.num * self.probe.new_s(
            each.rows * each.columns * number_bytes
        )

    def walk_s(self, each: Walk) -> float:
        """Of what only reads and writes, of its exponentials and its new tensors; a copy of b bytes moves 2 b."""
        num = max(each.num, 1.0)
        walked = num * seconds_of(self.probe.copy, each.size_bytes / num / 2)
        return walked + each.exps * self.probe.exp_s + num * self.probe.new_s(each.new_bytes)

    def gather_s(self, size_bytes: float, ranks: int, apart: int = 1) -> float:
        """Of an all-gather: half of an all-reduce, whose time over two ranks grows as (n − 1) / n does."""
        return (ranks - 1) / ranks * seconds_of(self.probe.sums, size_bytes) if ranks > 1 else 0.0

    def send_s(self, size_bytes: float, apart: int) -> float:
        """Of a message."""
        return self.gather_s(size_bytes, 2)


def seconds_of(points: Sequence[tuple[float, float]], size_bytes: float) -> float:
    """Between measured sizes in logs; below the least as it, above the largest in proportion."""
    sizes, seconds = np.asarray(points, float).T
    if size_bytes >= sizes[-1]:
        return float(seconds[-1] * size_bytes / sizes[-1])
    return float(np.exp(np.interp(np.log(max(size_bytes, 1.0)), np.log(sizes), np.log(seconds))))


def probe(folder: Path, tell: Callable[[str], None] = lambda _: None) -> Probe:
    """Measure.

    Parameters
    ----------
    folder : on the disk that is meant.
    tell : is told what is measured next.

    Raises
    ------
    MissingExtra : torch is not installed.
    RankError : a second process did not answer.
    InputError : nothing can be written into the folder.
    """
    import torch

    load, threads = os.getloadavg()[0], torch.get_num_threads()
    products, attention = {}, {}
    torch.set_num_threads(1)
    try:
        for kind, dtype in (("f32", torch.float32), ("bf16", torch.bfloat16)):
            tell(f"products of {kind}")
            products[kind] = [product_rate(*sides, dtype) for sides in itertools.product(*SIDES)]
            attention[kind] = [(float(width), attention_s(width, dtype)) for width in HEADS]
        tell("copies")
        copy = [(float(size), copy_s(size)) for size in COPIES]
        new = [(float(size), new_s(size)) for size in NEW]
        values = torch.rand(EXPS)
        exp_s = least_s(lambda: torch.exp(values, out=values).clamp_(max=1.0)) / EXPS
    finally:
        torch.set_num_threads(threads)
    tell("sums over two processes")
    sums = sums_s()
    tell("the disk")
    write, read = disk_rates(folder)
    return Probe(
        at=datetime.now(UTC).isoformat(timespec="seconds"), load=round(load, 2), sides=SIDES, products=products, copy=copy,
        new=new, attention=attention, exp_s=exp_s, sums=sums, disk_write=write, disk_read=read,
    )  # fmt: skip


def least_s(work: Callable[[], object]) -> float:
    """Least CPU seconds of some calls after a first one, which also packs and warms up."""
    begun = time.thread_time()
    work()
    found, end = max(time.thread_time() - begun, 1e-9), time.perf_counter() + TRY_S
    if found > SLOW_S:
        return found
    each = max(int(LEAST_S / found), 1)  # a clock's own cost
    for number in itertools.count(1):
        begun = time.thread_time()
        for _ in range(each):
            work()
        found = min(found, max(time.thread_time() - begun, 1e-9) / each)
        if number >= TRIES and time.perf_counter() > end:
            return found
    return found


def product_rate(n: int, k: int, m: int, dtype: object) -> float:
    """FLOP/s of one product."""
    import torch

    generator = torch.Generator().manual_seed(0)
    left, right = (torch.rand(*shape, generator=generator).to(dtype) for shape in ((n, k), (k, m)))  # type: ignore[call-overload]
    out = torch.empty(n, m, dtype=dtype)  # type: ignore[call-overload]
    return 2.0 * n * k * m / least_s(lambda: torch.mm(left, right, out=out))


def attention_s(width: int, dtype: object) -> float:
    """Seconds of a score of attention that is seen."""
    import torch

    rows, heads, length = ATTENDED
    query, key, value = (torch.rand(rows, heads, length, width).to(dtype) for _ in range(3))  # type: ignore[call-overload]
    attend = torch.nn.functional.scaled_dot_product_attention
    return least_s(lambda: attend(query, key, value, is_causal=True)) / (rows * heads * length**2 / 2)


def copy_s(size_bytes: int) -> float:
    """Seconds of one copy."""
    import torch

    source = torch.ones(size_bytes // 4)
    target = torch.empty_like(source)
    return least_s(lambda: target.copy_(source))


def new_s(size_bytes: int) -> float:
    """Seconds that writing a new tensor takes longer than writing it again."""
    import torch

    old = torch.empty(size_bytes // 4)
    again = least_s(lambda: old.fill_(1.0))
    return max(least_s(lambda: torch.empty(size_bytes // 4).fill_(1.0)) - again, 0.0)


def sums_s() -> list[tuple[float, float]]:
    """Seconds of all-reduces by size, of two processes that this starts and ends."""
    with tempfile.TemporaryDirectory(prefix="gyral-probe-") as folder:
        command = [sys.executable, "-m", "gyral.plan.probe_rank", str(Path(folder, "store"))]
        ranks = [
            subprocess.Popen([*command, str(rank), *map(str, SUMS)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            for rank in range(2)
        ]
        try:
            told = [rank.communicate(timeout=RANK_TIMEOUT_S) for rank in ranks]
        except subprocess.TimeoutExpired as error:
            why, hint = f"nothing came for {RANK_TIMEOUT_S} s", "probe again on a machine that is less busy"
            raise RankError("a process that sums with another did not answer", why=why, hint=hint) from error
        finally:
            for rank in ranks:
                rank.kill()
                rank.wait()
        if any(rank.returncode for rank in ranks):
            lines = b"".join(errors for _, errors in told).decode(errors="replace").strip().splitlines()
            hint = "two processes of this machine must be able to reach each other over its loopback"
            raise RankError("sums over two processes failed", why=lines[-1] if lines else "no word", hint=hint)
        return [(float(size), seconds) for size, seconds in msgspec.json.decode(told[0][0], type=list[tuple[int, float]])]


def disk_rates(folder: Path) -> tuple[float, float]:
    """Bytes/s written and flushed, and read again."""
    data = np.random.default_rng(0).bytes(DISK_BYTES)
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".gyral-probe-") as file:
            begun = time.perf_counter()
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            write_s = time.perf_counter() - begun
            begun = time.perf_counter()
            Path(file.name).read_bytes()
            return DISK_BYTES / write_s, DISK_BYTES / (time.perf_counter() - begun)
    except OSError as error:
        why, hint = error.strerror or str(error), "name a folder with 64 MB free by `--root`"
        raise InputError(f"nothing can be written into `{folder}`", why=why, hint=hint) from error


def told(found: Probe) -> list[str]:
    """For a person."""
    attention = {kind: 4 * HEADS[1] / found.score_s(HEADS[1], kind) for kind in found.products}
    lines = [
        f"{kind}: products {max(rates) / 1e9:,.0f} GFLOP/s a core, attention {attention[kind] / 1e9:,.0f}"
        for kind, rates in found.products.items()
    ]
    size, seconds = found.copy[-1]
    lines.append(f"memory: {2 * size / seconds / 1e9:,.1f} GB/s a core, read and written")
    size, seconds = found.new[-1]
    lines.append(f"new memory: {1e9 * seconds / size:,.2f} ns a byte more in tensors of {size / 1e6:,.0f} MB")
    size, seconds = found.sums[-1]
    lines.append(f"sum over two processes: {size / seconds / 1e9:,.2f} GB/s, {1e6 * found.sums[0][1]:,.0f} µs at least")
    write, read = found.disk_write / 1e6, found.disk_read / 1e6
    return [*lines, f"disk: writes {write:,.0f} MB/s and flushes them, reads {read:,.0f} MB/s (from the system's cache)"]


def save(root: Path, found: Probe) -> Path:
    """Write the project's file."""
    path = root / FILE
    files.write_atomic(path, msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    return path


def load(root: Path) -> Probe:
    """Read the project's file.

    Raises
    ------
    NotFound : there is none.
    InputError : it cannot be read.
    """
    path = root / FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Probe)
    except FileNotFoundError as error:
        raise NotFound("this machine was not probed", where=str(path), hint="gyral doctor --probe") from error
    except (OSError, msgspec.DecodeError) as error:
        raise InputError("a probe cannot be read", where=str(path), why=str(error), hint="gyral doctor --probe") from error

"""A device's sheet as a timer: the roofline of each operation, and alpha and beta of each collective.

A product takes the longer of FLOPs / (peak · share) and bytes / (bandwidth · share), and loses what the last round of tiles
leaves idle: one of 2,048 × 4,608 is 288 tiles for 108 cores, three rounds of which the third is a third full. What only walks
through memory (norms, softmax, masks, activations) takes its bytes; each kernel a launch. A collective of b bytes over n ranks
takes (n − 1) (alpha + b / (n · bandwidth)).

Source: Williams et al. 2009 (roofline); Thakur et al. 2005 (collectives); NVIDIA's matrix multiplication guide for tiles.
"""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

from gyral.plan.figure import By
from gyral.plan.hardware import Device, Rates
from gyral.plan.operations import Matmul, Walk

TILES = ((128, 256), (256, 128), (128, 128))
"""Of what a product gives, that one core computes at a time: those that libraries choose for large products."""


class Machine(NamedTuple):
    """A device, and the shares of its sheet that are had."""

    device: Device
    rates: Rates = Rates()

    @property
    def hidden(self) -> float:
        return self.rates.hidden

    @property
    def by(self) -> By:
        return "calibrated" if self.device.name.startswith("a100") else "sheet"

    @property
    def walked(self) -> float:
        """Bytes/s."""
        return self.device.bandwidth * self.rates.memory

    def matmul_s(self, each: Matmul, number_bytes: int) -> float:
        """Of products."""
        share = self.rates.attention if each.fused else self.rates.matmul * self.filled(each)
        compute = each.flops / (self.device.peak(number_bytes) * share)
        return max(compute, each.size_bytes / self.walked) + each.num * self.rates.launch_s

    def filled(self, each: Matmul) -> float:
        """Share of cores that have a tile, over the rounds that all tiles take; of the best way to lay them."""
        cores, cells = self.device.cores, each.rows * each.columns * each.num
        if not cores or not cells:
            return 1.0
        shares = []
        for high, wide in TILES:
            tiles = ceil(each.rows / high) * ceil(each.columns / wide) * each.num
            shares.append(cells / (high * wide * ceil(tiles / cores) * cores))
        return max(shares)

    def walk_s(self, each: Walk) -> float:
        """Of what only reads and writes."""
        return each.size_bytes / self.walked + each.num * self.rates.launch_s

    def rate(self, ranks: int, apart: int = 1) -> float:
        """Bytes/s that each of `ranks` sends in a collective."""
        link = self.device.link * self.rates.link
        if ranks * apart <= self.device.node:
            return link
        # a ring goes through all devices of a machine before it leaves by their networks, side by side
        return min(link, self.device.network * self.rates.network * max(self.device.node // apart, 1))

    def gather_s(self, size_bytes: float, ranks: int, apart: int = 1) -> float:
        """Of an all-gather or a reduce-scatter."""
        return (ranks - 1) * (self.rates.hop_s + size_bytes / ranks / self.rate(ranks, apart))

    def send_s(self, size_bytes: float, apart: int) -> float:
        """Of a message; the next rank is on another machine as soon as one machine is too small for both."""
        inside = 2 * apart <= self.device.node
        rate = self.device.link * self.rates.link if inside else self.device.network * self.rates.network
        return self.rates.hop_s + size_bytes / rate

"""Machines as data: what makers say a device can do, how devices are joined, and what share of that is had.

A sheet tells peaks that nothing reaches. What a plan multiplies them with is `Rates`: some shares and two delays, calibrated on
published steps or assumed. `gyral.plan.calibrate` fits them to steps of one's own, and a probe of the machine itself
(`gyral.plan.probe`) takes the place of both. Peaks of 16-bit products are without sparsity; links and networks are bytes of one
direction.

Source: data sheets of A100 (DA-10577, 2021), H100 and H200 SXM (2023, 2024) and HGX B200 (2025) of NVIDIA; networks are those
of the maker's own eight-device machines: 200 Gbit/s a device (A100), 400 (Hopper, Blackwell).
"""

from __future__ import annotations

import msgspec

from gyral.errors import NotFound, did_you_mean


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """One device of a maker's sheet.

    Attributes
    ----------
    half, single : FLOP/s of dense products of 16-bit and of f32 numbers.
    bandwidth : bytes/s of its memory, `memory` bytes of which there are.
    link : bytes/s to the others of a machine of `node` devices, in one direction.
    network : bytes/s to other machines, in one direction, for each device.
    cores : that compute a tile of a product each; 0: no tiles are counted.
    """

    name: str
    half: float
    single: float
    memory: float
    bandwidth: float
    link: float
    network: float
    node: int = 8
    cores: int = 0

    def peak(self, number_bytes: int) -> float:
        """FLOP/s of products of numbers so long."""
        return self.half if number_bytes <= 2 else self.single


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """What share of a sheet's rates is had.

    Attributes
    ----------
    matmul, attention : of the peak, by large products and by attention that stores no scores.
    memory : of the memory's bandwidth, by what only walks through it.
    link, network : of bandwidth between devices of a machine, and between machines, by collectives.
    launch_s : of one kernel, where nothing hides it.
    hop_s : of one step of a collective: its alpha.
    hidden : share of the exchange with `data` and `shard` that goes on beside the computing.

    `matmul` is calibrated on eight steps of Megatron (0.8006), `attention` on 69 of llm-foundry (kernels of early 2023; the
    paper of FlashAttention-2 states 0.5 to 0.73); the others are assumed.
    """

    matmul: float = 0.80
    attention: float = 0.31
    memory: float = 0.80
    link: float = 0.75
    network: float = 0.85
    launch_s: float = 4e-6
    hop_s: float = 5e-6
    hidden: float = 0.9


GB, TERA = 1e9, 1e12
DEVICES: dict[str, Device] = {
    each.name: each
    for each in (
        Device(
            name="a100-40", half=312 * TERA, single=19.5 * TERA, memory=40 * GB, bandwidth=1_555 * GB, link=300 * GB,
            network=25 * GB, cores=108,
        ),
        Device(
            name="a100-80", half=312 * TERA, single=19.5 * TERA, memory=80 * GB, bandwidth=2_039 * GB, link=300 * GB,
            network=25 * GB, cores=108,
        ),
        Device(
            name="h100", half=989 * TERA, single=67 * TERA, memory=80 * GB, bandwidth=3_350 * GB, link=450 * GB,
            network=50 * GB, cores=132,
        ),
        Device(
            name="h200", half=989 * TERA, single=67 * TERA, memory=141 * GB, bandwidth=4_800 * GB, link=450 * GB,
            network=50 * GB, cores=132,
        ),
        Device(
            name="b200", half=2_250 * TERA, single=75 * TERA, memory=180 * GB, bandwidth=8_000 * GB, link=900 * GB,
            network=50 * GB, cores=148,
        ),
    )
}  # fmt: skip


def device(name: str) -> Device:
    """A device of the catalogue.

    Raises
    ------
    NotFound : it has none of that name.
    """
    if name not in DEVICES:
        raise NotFound(f"no device `{name}` is known", hint=did_you_mean(name, DEVICES))
    return DEVICES[name]

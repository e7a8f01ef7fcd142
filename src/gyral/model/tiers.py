"""Classes of devices as data: what each can hold and run; for who serves and who makes variants for them.

The figures of the built-in tiers are round values to be replaced by one's own (`[serve.tiers]`), not measured ones: a phone of
the middle class, a laptop without a GPU, four cores of a server.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gyral.config.sections import DeviceTier

BUILT_IN: Final[Mapping[str, DeviceTier]] = {
    "phone": DeviceTier(
        memory_bytes=500 << 20, flop_per_s=10e9, bytes_per_s=8e9, is_on_battery=True,
        runtimes=["executorch", "onnx", "gguf"],
    ),
    "laptop": DeviceTier(
        memory_bytes=4 << 30, flop_per_s=50e9, bytes_per_s=20e9, is_on_battery=True,
        runtimes=["torch", "onnx", "gguf", "openvino"],
    ),
    "server": DeviceTier(memory_bytes=16 << 30, flop_per_s=100e9, bytes_per_s=20e9, usd_per_hour=0.2),
}  # fmt: skip


def tiers(own: Mapping[str, DeviceTier]) -> dict[str, DeviceTier]:
    """The built-in tiers and one's own, which win."""
    return {**BUILT_IN, **own}

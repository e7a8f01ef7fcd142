"""Where tensors live and how precise matrix products are: decided here and nowhere else.

The processor, unless `GYRAL_DEVICE=cuda` or a card is there; each rank of a machine takes the card of its number. `auto`
precision is bf16 where the hardware multiplies it (a card, or a processor with avx512_bf16 or AMX: 206 against 92 GFLOP/s a
core here), f32 elsewhere. Never fp16 on a processor: 2 GFLOP/s. Weights, gradients, their sums over ranks and the optimizer
stay f32.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from pathlib import Path

import torch

from gyral.errors import ConfigError

FAST_BF16 = {"avx512_bf16", "amx_bf16"}
"""Flags of a processor that multiplies bf16 faster than f32."""
KINDS = ("cpu", "cuda")


def kind() -> str:
    """`cpu` or `cuda`.

    Raises
    ------
    ConfigError : `GYRAL_DEVICE` names none of these, or a card that is not there.
    """
    asked = os.environ.get("GYRAL_DEVICE", "")
    if asked and asked not in KINDS:
        raise ConfigError(f"`{asked}` is no device", where="GYRAL_DEVICE", hint="use `cpu` or `cuda`")
    has_card = torch.cuda.is_available()
    if asked == "cuda" and not has_card:
        raise ConfigError("this machine has no card that torch can use", where="GYRAL_DEVICE", hint="GYRAL_DEVICE=cpu")
    return asked or ("cuda" if has_card else "cpu")


def device() -> torch.device:
    """The device of this rank; a card is made the current one."""
    if kind() == "cpu":
        return torch.device("cpu")
    number = int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def backend() -> str:
    """What carries collectives between devices of this kind; a card's ranks keep gloo for what lies on the processor."""
    return "cpu:gloo,cuda:nccl" if kind() == "cuda" else "gloo"


@lru_cache
def has_fast_bf16(cpuinfo: str = "/proc/cpuinfo") -> bool:
    """Whether this machine multiplies bf16 faster than f32."""
    if kind() == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    try:
        flags = next((line for line in Path(cpuinfo).read_text().splitlines() if line.startswith("flags")), "")
    except OSError:
        return False
    return not FAST_BF16.isdisjoint(flags.split())


def is_bf16(precision: str) -> bool:
    """Whether a setting of `train.precision` means bf16 on this machine."""
    return precision == "bf16" or (precision == "auto" and has_fast_bf16())


def autocast(precision: str) -> AbstractContextManager[object]:
    """What a forward pass runs under."""
    return torch.autocast(kind(), dtype=torch.bfloat16) if is_bf16(precision) else nullcontext()

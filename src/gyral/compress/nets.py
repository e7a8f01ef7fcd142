"""Compressors of nets: fewer bits a weight, rounded blindly or by what layers see of real inputs.

| `--to` | bits a weight | how |
|---|---|---|
| `bf16` | 16 | round to nearest |
| `int8` | 8 | a scale a row (`gyral.compress.quantize`); activations are int8, too, where a kernel does it |
| `int8-smooth` | 8 | the same after SmoothQuant |
| `int4` | 4.625 in blocks, 8 outside of them | GPTQ |
| `int4-rtn`, `int4-awq` | the same | round to nearest; AWQ's scales |

Calibrated ones take a third argument, which the family's twin makes. Measured on SmolLM2-135M and a byte model:
`benchmarks/compress/quant.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gyral.model.card import Weights
from gyral.model.quant import packing

if TYPE_CHECKING:
    from gyral.model.quant.calibration import Calibration
    from gyral.model.quant.recipe import Method


class Calibrated:
    """A compressor that wants to know what layers see."""

    needs_calibration = True

    def __init__(self, method: Method) -> None:
        self.method = method

    def __call__(self, weights: Weights, matrices: Sequence[str], calibration: Calibration) -> Weights:
        from gyral.model.quant.recipe import packed_net

        return packed_net(weights, matrices, calibration, self.method)


def bf16(weights: Weights, matrices: Sequence[str]) -> Weights:
    """Half the bytes, and next to no loss."""
    return packing.with_packed(weights, {name: packing.to_bf16(weights.arrays[name]) for name in matrices})


def int4_rtn(weights: Weights, matrices: Sequence[str]) -> Weights:
    """Round to nearest."""
    from gyral.model.quant.recipe import rounded_net

    return rounded_net(weights, matrices)


INT4 = Calibrated("gptq")
INT4_AWQ = Calibrated("awq")
INT8_SMOOTH = Calibrated("smooth")

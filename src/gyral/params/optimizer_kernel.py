"""One step of one row, per optimizer, in float32, in the order of the words in `gyral.params.spec`: the same bits everywhere.

Nothing is fused or reordered by the compiler (no fast-math), so the mean of squares of `rowwise_adagrad` is summed in eight
lanes by hand (place modulo 8; then 0+4, 1+5, 2+6, 3+7, then those by twos): one after the other costs a row of 32 three times
the time of the rest of its step.

Source: Duchi et al., JMLR 2011 (Adagrad; one sum a row: Naumov et al., arXiv 1906.00091); Kingma and Ba, arXiv 1412.6980
(Adam); McMahan et al., KDD 2013 (FTRL-proximal); Zheng et al., arXiv 1609.08326 (compensation of delay).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gyral.params.kernel import part
from gyral.params.spec import OPTIMIZERS, Optimizer

U = np.uint64
F = np.float32
SGD, MOMENTUM, ROWWISE, ADAGRAD, ADAM, FTRL = range(6)
_0, _1, _2, _3, _4, _5, _6, _7, _8 = U(0), U(1), U(2), U(3), U(4), U(5), U(6), U(7), U(8)


class Step(NamedTuple):
    """Numbers of an optimizer as a kernel wants them."""

    kind: int
    rate: np.float32
    eps: np.float32
    momentum: np.float32
    rest1: np.float32
    beta2: np.float32
    rest2: np.float32
    l1: np.float32
    l2: np.float32
    beta: np.float32
    compensation: np.float32
    keep: np.float32
    rate64: float
    beta1_64: float
    beta2_64: float


def step_of(how: Optimizer, factor: float = 1.0) -> Step:
    """`eps` of 0 is the least that keeps 0 / 0 away; `factor` is on the rate."""
    rate = how.rate * factor
    return Step(
        OPTIMIZERS.index(how.name), F(rate), F(how.eps or 1e-30), F(how.momentum), F(1 - how.beta1), F(how.beta2),
        F(1 - how.beta2), F(how.l1), F(how.l2), F(how.beta), F(how.compensation),
        F(1 - rate * how.decay), rate, how.beta1, how.beta2,
    )  # fmt: skip


@part
def _mean_square(g: np.ndarray, gi: np.uint64, dim: np.uint64) -> np.float32:
    """Of a row, in eight lanes."""
    a, b, c, d, e, f, h, i = F(0), F(0), F(0), F(0), F(0), F(0), F(0), F(0)
    left, end = gi + (dim & ~_7), gi + dim
    for at in range(gi, left, _8):
        a += g[at] * g[at]
        b += g[at + _1] * g[at + _1]
        c += g[at + _2] * g[at + _2]
        d += g[at + _3] * g[at + _3]
        e += g[at + _4] * g[at + _4]
        f += g[at + _5] * g[at + _5]
        h += g[at + _6] * g[at + _6]
        i += g[at + _7] * g[at + _7]
    if left < end:
        a += g[left] * g[left]
    if left + _1 < end:
        b += g[left + _1] * g[left + _1]
    if left + _2 < end:
        c += g[left + _2] * g[left + _2]
    if left + _3 < end:
        d += g[left + _3] * g[left + _3]
    if left + _4 < end:
        e += g[left + _4] * g[left + _4]
    if left + _5 < end:
        f += g[left + _5] * g[left + _5]
    if left + _6 < end:
        h += g[left + _6] * g[left + _6]
    return (((a + e) + (c + h)) + ((b + f) + (d + i))) / F(dim)


@part
def _adam(
    how: Step, s: np.ndarray, si: np.uint64, w: np.ndarray, wi: np.uint64, g: np.ndarray, gi: np.uint64, dim: np.uint64
) -> None:
    step = s[si] + F(1)
    s[si] = step
    by = F(how.rate64 / (1.0 - how.beta1_64 ** float(step)))
    root = F(np.sqrt(1.0 - how.beta2_64 ** float(step)))
    first, second = si + _1, si + _1 + dim
    for at in range(dim):
        m = s[first + at] + (g[gi + at] - s[first + at]) * how.rest1
        v = how.beta2 * s[second + at] + how.rest2 * g[gi + at] * g[gi + at]
        s[first + at] = m
        s[second + at] = v
        w[wi + at] -= by * m / (np.sqrt(v) / root + how.eps)


@part
def _ftrl(
    how: Step, s: np.ndarray, si: np.uint64, w: np.ndarray, wi: np.uint64, g: np.ndarray, gi: np.uint64, dim: np.uint64
) -> None:
    for at in range(dim):
        grad, n = g[gi + at], s[si + dim + at]
        sigma = (np.sqrt(n + grad * grad) - np.sqrt(n)) / how.rate
        z = s[si + at] + grad - sigma * w[wi + at]
        n = n + grad * grad
        s[si + at] = z
        s[si + dim + at] = n
        if abs(z) <= how.l1:
            w[wi + at] = F(0)
        else:
            shrunk = (how.l1 if z > F(0) else -how.l1) - z
            w[wi + at] = shrunk / ((how.beta + np.sqrt(n)) / how.rate + how.l2)


@part
def stepped(
    how: Step, s: np.ndarray, si: np.uint64, w: np.ndarray, wi: np.uint64, g: np.ndarray, gi: np.uint64, dim: np.uint64
) -> None:
    """State from `s[si]` on and weights from `w[wi]` on, changed by the gradient from `g[gi]` on."""
    if how.keep != F(1):
        for at in range(dim):
            w[wi + at] *= how.keep
    if how.kind == ROWWISE:
        total = s[si] + _mean_square(g, gi, dim)
        s[si] = total
        by = how.rate / (np.sqrt(total) + how.eps)
        for at in range(dim):
            w[wi + at] -= by * g[gi + at]
    elif how.kind == SGD:
        for at in range(dim):
            w[wi + at] -= how.rate * g[gi + at]
    elif how.kind == MOMENTUM:
        for at in range(dim):
            s[si + at] = how.momentum * s[si + at] + g[gi + at]
            w[wi + at] -= how.rate * s[si + at]
    elif how.kind == ADAGRAD:
        for at in range(dim):
            s[si + at] += g[gi + at] * g[gi + at]
            w[wi + at] -= how.rate * g[gi + at] / (np.sqrt(s[si + at]) + how.eps)
    elif how.kind == ADAM:
        _adam(how, s, si, w, wi, g, gi, dim)
    else:
        _ftrl(how, s, si, w, wi, g, gi, dim)

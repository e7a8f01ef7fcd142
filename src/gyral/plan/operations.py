"""What one rank computes in a block, operation by operation: FLOPs of products, and bytes that are read and written.

A forward pass is a list of `Matmul` and `Walk`; a backward pass has two products for each product (by its input, by its
weight), and what walks through memory reads one tensor more. Fusions are Megatron's: bias with GELU, bias with dropout and
residual, scale with mask and softmax. With `flash` attention there are no scores in memory and softmax costs no walk; its
backward pass computes the scores again, which is 2.5 times the forward pass. The loss is torch's: log-softmax in f32, and a
gradient that is first all zeros, then that of log-softmax, each a tensor as large as the logits.

Shapes: n tokens of a micro-batch, t tensor-parallel ranks; other letters as in `gyral.plan.counters`.

Source: Shoeybi et al. 2019, section 3; Dao 2023 (FlashAttention-2), section 3.1, for 2.5.
"""

from __future__ import annotations

from typing import NamedTuple

from gyral.plan.axes import Layout
from gyral.plan.counters import Transformer

FLASH_BACKWARD = 2.5


class Matmul(NamedTuple):
    """`num` products: their FLOPs and bytes, together; `rows` and `columns` are those of what one of them gives.

    `fused`: attention in one kernel, which has a rate of its own; `columns` is the width of a head.
    """

    flops: float
    size_bytes: float
    num: float = 1.0
    rows: float = 0.0
    columns: float = 0.0
    fused: bool = False


class Walk(NamedTuple):
    """`num` kernels that read and write so many bytes, together, and take so many exponentials (free but on processors).

    `new_bytes`: of the tensor that each of them makes; 0: they write where there was one.
    """

    size_bytes: float
    num: float = 1.0
    exps: float = 0.0
    new_bytes: float = 0.0


Operations = tuple[list[Matmul], list[Walk]]


def product(n: float, k: float, m: float, number_bytes: int, num: float = 1.0) -> Matmul:
    """`num` products of [n, k] and [k, m]."""
    return Matmul(2.0 * n * k * m * num, number_bytes * (n * k + k * m + n * m) * num, num, n, m)


def block_operations(
    model: Transformer, layout: Layout, number_bytes: int = 2, dropout: bool = False
) -> tuple[Operations, Operations, Operations]:
    """Of one block, micro-batch and rank: forward, backward, and what is computed again."""
    n, e, t, h = layout.microbatch * model.length, number_bytes, layout.tensor, model.width
    used, experts = (model.experts_used, model.experts) if model.experts else (1, 1)
    ups = 2 if model.gated else 1
    linears = [
        (n, h, (model.queries + 2 * model.keys) / t, 1.0),
        (n, model.queries / t, h, 1.0),
        (n * used / experts, h, ups * model.hidden / t, experts),
        (n * used / experts, model.hidden / t, h, experts),
    ]
    forward = [product(rows, k, m, e, num) for rows, k, m, num in linears]
    backward = [product(rows, m, k, e, num) for rows, k, m, num in linears]
    by_weight = [product(k, rows, m, e, num) for rows, k, m, num in linears]
    # gradients of weights are added to f32 sums: read and written
    backward += [w._replace(size_bytes=w.size_bytes + 8 * w.rows * w.columns * w.num) for w in by_weight]

    apart = t if layout.sequence else 1
    stream = n * h / apart
    inside = n * model.hidden * used / t
    norms = Walk(4 * stream * e, 2, new_bytes=stream * e)
    adds = Walk(2 * stream * (3 * e + (1 if dropout else 0)), 2, new_bytes=stream * e)
    gate = Walk((ups + 1) * inside * e, exps=inside, new_bytes=inside * e)
    walks = [norms, adds, gate]
    walks_back = [
        Walk(6 * stream * e, 2, new_bytes=stream * e),
        Walk(2 * stream * (2 * e + (1 if dropout else 0)), 2),
        Walk((2 * ups + 1) * inside * e, exps=inside, new_bytes=ups * inside * e),
    ]

    scores, scores_back, through = attention_operations(model, layout, e, dropout)
    walks += through[0]
    walks_back += through[1]
    again: Operations = ([], [])
    if layout.recompute == "full":
        again = (forward + scores, walks)
    elif layout.recompute == "selective" and not layout.flash:
        again = (scores, through[0])
    return (forward + scores, walks), (backward + scores_back, walks_back), again


def attention_operations(
    model: Transformer, layout: Layout, number_bytes: int, dropout: bool
) -> tuple[list[Matmul], list[Matmul], tuple[list[Walk], list[Walk]]]:
    """Scores and sums: products forward and backward, and walks forward and backward."""
    T, E, e = model.length, model.head_width, number_bytes  # noqa: N806
    heads = layout.microbatch * model.heads / layout.tensor
    if layout.flash:
        tensors = heads * T * E * e
        seen = 0.5 if model.causal else 1.0
        forward = Matmul(4.0 * heads * T * T * E * seen, 4 * tensors, rows=T, columns=E, fused=True)
        backward = forward._replace(flops=FLASH_BACKWARD * forward.flops, size_bytes=8 * tensors)
        return [forward], [backward], ([], [])
    one = product(T, E, T, e, heads)._replace(num=1)
    other = product(T, T, E, e, heads)._replace(num=1)
    cells = heads * T * T
    masks = 1 if dropout else 0
    walks = [Walk(2 * cells * e, exps=cells)] + ([Walk(cells * (2 * e + masks))] if dropout else [])
    walks_back = [Walk(3 * cells * e)] + ([Walk(cells * (2 * e + masks))] if dropout else [])
    return [one, other], [one, other, one, other], (walks, walks_back)


def head_operations(model: Transformer, layout: Layout, number_bytes: int = 2) -> tuple[Operations, Operations]:
    """Logits, softmax and loss of one micro-batch, forward and backward."""
    n, e, t = layout.microbatch * model.length, number_bytes, layout.tensor
    if not model.vocab:
        rows = layout.microbatch
        forward = product(rows, model.width, max(model.classes, 1), e)
        return ([forward], []), ([forward, forward], [])
    forward = product(n, model.width, model.vocab / t, e)
    cells = n * model.vocab / t
    cast = [Walk(cells * (e + 4), new_bytes=4 * cells)] if e < 4 else []
    walks = [*cast, Walk(2 * 4 * cells, exps=cells, new_bytes=4 * cells)]
    zeros, softmax = Walk(4 * cells, new_bytes=4 * cells), Walk(3 * 4 * cells, exps=cells, new_bytes=4 * cells)
    by_input, by_weight = product(n, model.vocab / t, model.width, e), product(model.width, n, model.vocab / t, e)
    return ([forward], walks), ([by_input, by_weight], [zeros, softmax, *(each._replace(new_bytes=e * cells) for each in cast)])

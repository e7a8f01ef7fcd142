"""A vision transformer: patches through one linear, learned or sine positions, pre-norm blocks, weights that carry over.

The patch embedding is a linear over the C P P numbers of a patch and not a convolution: the same product, and a matrix that
tensor parallelism, quantization and FLOPs already know. `Block` is the one block of this room: pictures, captions and decoders
are made of it. Initial matrices are Xavier's, as in MAE.

Shapes: B rows, C channels, S side in pixels, P side of a patch, N patches, T positions (class token first), D width, H heads.

Source: Dosovitskiy et al. 2021 (ViT); He et al. 2022, appendix A (sine positions in two dimensions). Names and layout are those
of transformers' `ViTForImageClassification`, whose convolution of patches [D, C, P, P] is this linear [D, C P P].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gyral.model.nets.attention import attended
from gyral.model.roles import Role, Roles


def block_rules(container: str) -> tuple[tuple[str, Role], ...]:
    """Roles of the matrices of `Block`s in a container of this name."""
    columns = ("attention.query", "attention.key", "attention.value", "feed.up")
    rows = ("attention.out", "feed.down")
    return (
        *((f"{container}.*.{name}", "column") for name in columns),
        *((f"{container}.*.{name}", "row") for name in rows),
    )


def block_names(ours: str, theirs: str) -> tuple[tuple[str, str], ...]:
    """Names of a block's parameters here and in transformers."""
    pairs = (
        ("attention.query", "attention.attention.query"),
        ("attention.key", "attention.attention.key"),
        ("attention.value", "attention.attention.value"),
        ("attention.out", "attention.output.dense"),
        ("feed.up", "intermediate.dense"),
        ("feed.down", "output.dense"),
        ("before_attention", "layernorm_before"),
        ("before_feed", "layernorm_after"),
    )
    return tuple((f"{ours}.*.{a}.{kind}", f"{theirs}.{{}}.{b}.{kind}") for a, b in pairs for kind in ("weight", "bias"))


ROLES = Roles(
    rules=block_rules("blocks"),
    blocks="blocks",
    first=("embed",),
    last=("norm", "logits"),
    attention="blocks.*.attention",
    hf=(
        ("embed.patch.weight", "vit.embeddings.patch_embeddings.projection.weight"),
        ("embed.patch.bias", "vit.embeddings.patch_embeddings.projection.bias"),
        ("embed.cls", "vit.embeddings.cls_token"),
        ("embed.position", "vit.embeddings.position_embeddings"),
        *block_names("blocks", "vit.encoder.layer"),
        ("norm.weight", "vit.layernorm.weight"),
        ("norm.bias", "vit.layernorm.bias"),
        ("logits.weight", "classifier.weight"),
        ("logits.bias", "classifier.bias"),
    ),
)


@dataclass(frozen=True)
class Shape:
    """Sizes of a tower; `side` and `patch` in pixels, `hidden` is the width inside the feed-forward part.

    `head` is the width of a head where that is not the width by the heads: some were pruned.
    """

    side: int
    patch: int
    width: int
    depth: int
    heads: int
    hidden: int
    channels: int = 3
    learned: bool = False
    classes: int = 0
    eps: float = 1e-6
    head: int = 0

    @property
    def grid(self) -> int:
        return self.side // self.patch

    @property
    def num_patches(self) -> int:
        return self.grid**2


class Attention(nn.Module):
    """Every position sees every other one that is there."""

    def __init__(self, width: int, heads: int, head: int = 0) -> None:
        super().__init__()
        self.head_width = head or width // heads
        seen = heads * head if head else width
        self.query = nn.Linear(width, seen)
        self.key = nn.Linear(width, seen)
        self.value = nn.Linear(width, seen)
        self.out = nn.Linear(seen, width)

    def forward(self, x_BTD: Tensor, is_there_BT: Tensor | None = None) -> Tensor:
        """Heads are counted by what the projections give, so a rank may hold some of them."""
        rows, length = x_BTD.shape[:2]
        query, key, value = (
            part(x_BTD).view(rows, length, -1, self.head_width).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        seen = self.attend(query, key, value, None if is_there_BT is None else is_there_BT[:, None, None, :])
        return self.out(seen.transpose(1, 2).reshape(rows, length, -1))

    def attend(self, query_BHTE: Tensor, key_BHTE: Tensor, value_BHTE: Tensor, mask: Tensor | None) -> Tensor:
        """The whole sequence."""
        return attended(query_BHTE, key_BHTE, value_BHTE, mask)


class FeedForward(nn.Module):
    """Two linears and GELU between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x_BTD)))


class Block(nn.Module):
    """Attention and feed-forward part, each added to the stream."""

    def __init__(self, width: int, heads: int, hidden: int, eps: float = 1e-6, head: int = 0) -> None:
        super().__init__()
        self.before_attention = nn.LayerNorm(width, eps=eps)
        self.attention = Attention(width, heads, head)
        self.before_feed = nn.LayerNorm(width, eps=eps)
        self.feed = FeedForward(width, hidden)

    def forward(self, x_BTD: Tensor, is_there_BT: Tensor | None = None) -> Tensor:
        x_BTD = x_BTD + self.attention(self.before_attention(x_BTD), is_there_BT)
        return x_BTD + self.feed(self.before_feed(x_BTD))


def blocks_of(depth: int, width: int, heads: int, hidden: int, eps: float = 1e-6, head: int = 0) -> nn.ModuleDict:
    """The container of repeated blocks."""
    return nn.ModuleDict({str(number): Block(width, heads, hidden, eps, head) for number in range(depth)})


class Embed(nn.Module):
    """Pixels → patches with positions, the class token before them."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.patch = nn.Linear(shape.channels * shape.patch**2, shape.width)
        self.cls = nn.Parameter(torch.zeros(1, 1, shape.width))
        if shape.learned:
            self.position = nn.Parameter(torch.zeros(1, 1 + shape.num_patches, shape.width))
        else:
            self.register_buffer("position", sine_positions(shape.grid, shape.width)[None], persistent=False)

    def forward(self, pixels_BCSS: Tensor, kept_BK: Tensor | None = None) -> Tensor:
        """Stream [B, 1 + N, D]; with `kept_BK` only of those patches, in that order."""
        x_BND = self.patch(patches_of(pixels_BCSS, self.shape.patch))
        position = self.position_at(pixels_BCSS.shape[-1] // self.shape.patch)
        x_BND = x_BND + position[:, 1:]
        if kept_BK is not None:
            x_BND = x_BND.gather(1, kept_BK[:, :, None].expand(-1, -1, x_BND.shape[-1]))
        first = (self.cls + position[:, :1]).expand(x_BND.shape[0], -1, -1)
        return torch.cat([first, x_BND], dim=1)

    def position_at(self, grid: int) -> Tensor:
        """Positions of a grid of another size, between those that are known: a crop is seen at the scale of the whole."""
        if grid == self.shape.grid:
            return self.position
        known = self.position[:, 1:].transpose(1, 2).unflatten(2, (self.shape.grid, self.shape.grid))
        scaled = F.interpolate(known, size=(grid, grid), mode="bilinear", align_corners=False)
        return torch.cat([self.position[:, :1], scaled.flatten(2).transpose(1, 2)], dim=1)


class Vit(nn.Module):
    """Pixels → hidden states of all positions after the last norm, or logits where `shape.classes` says so."""

    embed: Embed | None
    norm: nn.LayerNorm | None
    logits: nn.Linear | None

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed = Embed(shape)
        self.blocks = blocks_of(shape.depth, shape.width, shape.heads, shape.hidden, shape.eps, shape.head)
        self.norm = nn.LayerNorm(shape.width, eps=shape.eps)
        self.logits = nn.Linear(shape.width, shape.classes) if shape.classes else None
        self.apply(initial)
        nn.init.normal_(self.embed.cls, std=0.02)
        if shape.learned:
            nn.init.normal_(self.embed.position, std=0.02)

    def forward(self, x: Tensor, kept_BK: Tensor | None = None, skip: int = 0) -> Tensor:
        """Pixels [B, C, S, S] in about [−1, 1], or the stream of the stage before; without the last `skip` blocks."""
        if self.embed is not None:
            x = self.embed(x, kept_BK)
        for block in list(self.blocks.values())[: len(self.blocks) - skip]:
            x = block(x)
        if self.norm is None:
            return x
        x = self.norm(x)
        return x if self.logits is None else self.logits(x[:, 0])


def initial(module: nn.Module) -> None:
    """Initial values of a module by its kind."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)


def patches_of(pixels_BCSS: Tensor, patch: int) -> Tensor:
    """Numbers of each patch, [B, N, C P P], patches row by row, channels first inside one."""
    rows, channels, side, _ = pixels_BCSS.shape
    grid = side // patch
    cut = pixels_BCSS.reshape(rows, channels, grid, patch, grid, patch).permute(0, 2, 4, 1, 3, 5)
    return cut.reshape(rows, grid * grid, channels * patch * patch)


def sine_positions(grid: int, width: int) -> Tensor:
    """Sine and cosine of row and of column, a quarter of the width each; zero for the class token: [1 + N, D]."""
    quarter = width // 4
    rate = 10_000.0 ** (-torch.arange(quarter, dtype=torch.float32) / quarter)
    rows, columns = torch.meshgrid(torch.arange(grid).float(), torch.arange(grid).float(), indexing="ij")
    angles = [place.reshape(-1, 1) * rate for place in (rows, columns)]
    known = torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1)
    return torch.cat([torch.zeros(1, width), F.pad(known, (0, width - known.shape[1]))])


def flops_of(depth: int, width: int, hidden: int, length: int) -> float:
    """FLOPs that forward and backward of blocks take for a row of `length` positions: 6 a parameter, 12 T D for attention."""
    return float(depth * length * (6 * (4 * width * width + 2 * width * hidden) + 12 * length * width))

"""A student and its teacher, the student's own past: two towers of one form with heads onto prototypes.

The teacher is part of the model's state: it is stored, resumed and handed on with it, and has no gradients.

Shapes: R rows (views of all pictures), K prototypes.

Source: Caron et al. 2021 (DINO), section 3 and appendix C.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gyral.model.nets import vit
from gyral.model.roles import Roles

ROLES = Roles(
    rules=(*vit.block_rules("student.blocks"), *vit.block_rules("teacher.blocks")),
    blocks="student.blocks",
    attention="student.blocks.*.attention",
)


class Directions(nn.Linear):
    """Products of unit vectors with unit rows."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.normalize(x, dim=-1), F.normalize(self.weight, dim=-1))


class Head(nn.Module):
    """Three linears, a narrow unit vector, and its products with unit prototypes."""

    def __init__(self, width: int, hidden: int, narrow: int, prototypes: int) -> None:
        super().__init__()
        self.enter = nn.Linear(width, hidden)
        self.middle = nn.Linear(hidden, hidden)
        self.leave = nn.Linear(hidden, narrow)
        self.prototypes = Directions(narrow, prototypes, bias=False)
        self.apply(vit.initial)
        nn.init.normal_(self.prototypes.weight)

    def forward(self, x_RD: Tensor) -> Tensor:
        """Products [R, K] in [−1, 1]."""
        x = self.leave(F.gelu(self.middle(F.gelu(self.enter(x_RD)))))
        products: Tensor = self.prototypes(x)
        return products


class StudentTeacher(nn.Module):
    """Both towers; `center` is the running mean of what the teacher says, `seen` that of the step under way."""

    center: Tensor
    seen: Tensor

    def __init__(self, shape: vit.Shape, prototypes: int, hidden: int = 256, narrow: int = 64) -> None:
        super().__init__()
        self.student, self.teacher = vit.Vit(shape), vit.Vit(shape)
        self.student_head, self.teacher_head = (Head(shape.width, hidden, narrow, prototypes) for _ in range(2))
        self.teacher.load_state_dict(self.student.state_dict())
        self.teacher_head.load_state_dict(self.student_head.state_dict())
        self.teacher.requires_grad_(False)
        self.teacher_head.requires_grad_(False)
        self.register_buffer("center", torch.zeros(prototypes))
        self.register_buffer("seen", torch.zeros(prototypes))

    def forward(self, whole_RCSS: Tensor, parts_RCSS: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor]:
        """What the student says of large views and of small ones, and the teacher of the large ones: [R, K] each."""
        said = self.student_head(self.student(whole_RCSS)[:, 0])
        of_parts = None if parts_RCSS is None else self.student_head(self.student(parts_RCSS)[:, 0])
        with torch.no_grad():
            taught = self.teacher_head(self.teacher(whole_RCSS)[:, 0])
        return said, of_parts, taught

    @torch.no_grad()
    def follow(self, momentum: float, center_momentum: float) -> None:
        """Move the teacher and the center toward the student and what was seen."""
        for old, new in ((self.teacher, self.student), (self.teacher_head, self.student_head)):
            for mine, theirs in zip(old.parameters(), new.parameters(), strict=True):
                mine.lerp_(theirs, 1 - momentum)
        self.center.lerp_(self.seen, 1 - center_momentum)

"""The lessons of vision: a tower of whatever width and depth learns to see as its teacher does.

| task | what the teacher says, a row | distance |
|---|---|---|
| `contrastive` | vectors of the picture and of its captions | one minus cosine, of both |
| `masked` | hidden states of the patches that the student sees, by who sees them all | one minus cosine |
| `self_distilled` | which prototypes each large view is, without its center | cross-entropy of the student's other views |

Vectors of another width are brought to the student's by the directions in which the teacher's vary most (principal components
of some of the training pictures and captions), which keep their products best of all maps; a narrower teacher's are filled up
with zeros. So no layer is learned that is thrown away.

Measured on emoji, a student of half the width and depth, 450 steps, search R@10 in 24 languages (teacher .282): alone .201, as
long as costs the same with a teacher .222; angles .241, eight times as strong .255 and at weight .9 .261; the divergence of the
batch's similarities (relations) .227, both together .253. On Fashion-MNIST `masked` gains less (probe .846 alone, a teacher of
400 steps): states by who sees all .852, by who sees the same patches .850, its painting .844, relations of patches .836.

Source: Yang et al. 2024 (CLIP-KD), sections 3.2 and 4.4: mimicking features does best of seven ways; Eckart and Young 1936
(the best approximation of products); Baevski et al. 2022 (data2vec): a teacher that sees what is hidden; Oquab et al. 2024
(DINOv2), section 5: a frozen teacher in the place of the moving average.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gyral.errors import InputError
from gyral.model.embedder import Embedder
from gyral.model.nets import vit
from gyral.model.task import Batch, Gather
from gyral.model.tasks.contrastive import Contrastive
from gyral.model.tasks.distill_self import SelfDistilled
from gyral.model.tasks.masked import Masked
from gyral.model.tasks.pictures import PictureTask
from gyral.model.teaching import SAID, WHERE, Teacher

CAPTIONS = "teacher_captions"
STRENGTH = 8.0
"""Of the angles: one alone is a fraction of the loss beside it, a few nats a row."""
SOME = 1024
"""Pictures, and captions, that directions are taken of: evenly of all."""


class Narrow:
    """Vectors of a teacher, at a student's width.

    Parameters
    ----------
    known_NE : of the teacher, by which directions are chosen.
    middle_E : taken off first; None: nothing is.
    """

    def __init__(self, known_NE: np.ndarray, width: int, middle_E: np.ndarray | None = None) -> None:
        known = known_NE.astype(np.float64)
        middle = np.zeros(known.shape[1]) if middle_E is None else middle_E
        values, directions_EE = np.linalg.eigh((known - middle).T @ (known - middle))
        basis_EF = directions_EE[:, ::-1][:, :width]
        largest = basis_EF[np.abs(basis_EF).argmax(axis=0), np.arange(basis_EF.shape[1])]
        basis_EF = basis_EF * np.where(largest < 0, -1.0, 1.0)  # a direction has two signs; every rank takes the same
        self.kept = float(values[::-1][:width].sum() / max(values.sum(), 1e-30))
        self._basis_EF = torch.from_numpy(np.pad(basis_EF, ((0, 0), (0, width - basis_EF.shape[1])))).float()
        self._middle_E = torch.from_numpy(middle).float()

    def __call__(self, x_E: Tensor) -> Tensor:
        """Vectors […, E] as vectors […, F] of length one."""
        return F.normalize((x_E - self._middle_E) @ self._basis_EF, dim=-1)


class ContrastiveLesson:
    """Both towers of a teacher."""

    def __init__(self, task: Contrastive, teacher: Embedder) -> None:
        self._task, self._net = task, teacher.model.eval().requires_grad_(False)
        self._narrow = Narrow(np.concatenate(_some(task, teacher)), task.width)
        self.flops = _flops(teacher)

    @torch.no_grad()
    def said(self, batch: Batch) -> Batch:
        """Vectors of each row's pictures [B, V, F] and captions [B, C, F]."""
        picture, caption, *_ = self._net(*self._task.inputs(batch))
        shape = (len(batch["concepts"]), -1, self._task.width)
        return {SAID: self._narrow(picture).view(shape), CAPTIONS: self._narrow(caption).view(shape)}

    def distance(self, outputs: Any, batch: Batch, gather: Gather) -> Tensor:
        """Of each row: the mean of its pictures and that of its captions."""
        parts = []
        for given, said in ((outputs[0], batch[SAID]), (outputs[1], batch[CAPTIONS])):
            parts.append((1 - (given * said.flatten(0, 1)).sum(dim=-1)).sum() / said.shape[1])
        return STRENGTH * torch.stack(parts).sum()


class MaskedLesson:
    """An encoder that sees whole pictures."""

    def __init__(self, task: Masked, teacher: Embedder) -> None:
        self._tower = teacher.tower.eval().requires_grad_(False)
        known = teacher.tokens(task.trained.pixels[_evenly(len(task.trained.pixels), SOME // 4)])[:, 1:]
        known = known.reshape(-1, known.shape[-1])
        self._narrow = Narrow(known, task.shape.width, known.mean(axis=0, dtype=np.float64))
        self._share = (task.shape.num_patches - task.num_kept) / task.num_kept
        self.flops = _flops(teacher)

    @torch.no_grad()
    def said(self, batch: Batch) -> Batch:
        """Hidden states of the patches that are kept, [B, K, F], the mean of all taken off."""
        hidden_BND = self._tower(batch["pixels"])[:, 1:]
        kept = batch["kept"][:, :, None].expand(-1, -1, hidden_BND.shape[2])
        return {SAID: self._narrow(hidden_BND.gather(1, kept))}

    def distance(self, outputs: tuple[Tensor, Tensor], batch: Batch, gather: Gather) -> Tensor:
        """Of each patch that is seen, as heavy together as those that are hidden."""
        seen_BKD = outputs[1][:, 1:].float()
        return self._share * (1 - F.cosine_similarity(seen_BKD, batch[SAID], dim=-1)).sum()


class SelfDistilledLesson:
    """The teacher of another model in the place of the own, which goes on beside it."""

    def __init__(self, task: SelfDistilled, teacher: Embedder) -> None:
        self._task, self._net = task, teacher.model.eval().requires_grad_(False)
        self.flops = 2 * _flops(teacher)

    @torch.no_grad()
    def said(self, batch: Batch) -> Batch:
        """What it says of the large views, [B, 2, K], its center taken off."""
        views = batch["whole"]
        taught = self._net.teacher_head(self._net.teacher(views.flatten(0, 1))[:, 0])  # type: ignore[operator]
        return {SAID: (taught - self._net.center).unflatten(0, views.shape[:2])}

    def distance(self, outputs: Any, batch: Batch, gather: Gather) -> Tensor:
        """The task's own loss, by another teacher."""
        said, of_parts, *_ = outputs
        return self._task.crossed(said, of_parts, batch[SAID].flatten(0, 1)).sum()


def contrastive(task: Contrastive, teacher: Teacher, temperature: float) -> ContrastiveLesson:
    """A lesson by two towers; of captions it must make the same n-grams."""
    found = _embedder(task, teacher)
    buckets = found.model.caption.shape.buckets  # type: ignore[union-attr]
    if buckets != task.caption.buckets:
        what = f"`{teacher.name}` hashes captions to {buckets:,} rows, the student to {task.caption.buckets:,}"
        raise InputError(what, where=WHERE, hint=f"`--set vision.buckets={buckets}`")
    return ContrastiveLesson(task, found)


def masked(task: Masked, teacher: Teacher, temperature: float) -> MaskedLesson:
    """A lesson by an encoder that cuts pictures into the same patches."""
    found = _embedder(task, teacher)
    _refuse_unlike(task, teacher.name, found, ("patch",))
    return MaskedLesson(task, found)


def self_distilled(task: SelfDistilled, teacher: Teacher, temperature: float) -> SelfDistilledLesson:
    """A lesson by a model that chooses from as many prototypes."""
    found = _embedder(task, teacher)
    theirs, own = teacher.settings["head"]["prototypes"], task.teaching.prototypes
    if theirs != own:
        what = f"`{teacher.name}` chooses from {theirs:,} prototypes, the student from {own:,}"
        raise InputError(what, where=WHERE, hint=f"`--set vision.prototypes={theirs}`")
    return SelfDistilledLesson(task, found)


def _embedder(task: PictureTask, teacher: Teacher) -> Embedder:
    """The teacher, of the same task and looking at the same pixels.

    Raises
    ------
    InputError : it is not.
    """
    kind = teacher.settings.get("task")
    if kind != task.name:
        what = f"`{teacher.name}` learned `{kind}` and cannot teach `{task.name}`"
        raise InputError(what, where=WHERE, hint=f"`--set train.task={kind}`")
    found = Embedder.of(teacher.weights)
    _refuse_unlike(task, teacher.name, found, ("side", "channels"))
    return found


def _refuse_unlike(task: PictureTask, name: str, teacher: Embedder, fields: tuple[str, ...]) -> None:
    for field in fields:
        theirs, own = getattr(teacher.shape, field), getattr(task.shape, field)
        if theirs != own:
            what = f"`{name}` sees pictures of {field} {theirs}, the student of {own}"
            raise InputError(what, where=WHERE, hint=f"`--set vision.{field}={theirs}`")


def _some(task: Contrastive, teacher: Embedder) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of some pictures and captions that are trained on."""
    pixels, texts = task.trained.pixels, task.trained.texts
    some = [texts[at] for at in _evenly(len(texts), SOME).tolist()]
    return teacher.pictures(pixels[_evenly(len(pixels), SOME)]), teacher.captions(some)


def _evenly(count: int, most: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))


def _flops(teacher: Embedder) -> float:
    """Of a forward pass over a picture."""
    shape: vit.Shape = teacher.shape
    return vit.flops_of(shape.depth, shape.width, shape.hidden, 1 + shape.num_patches) / 3

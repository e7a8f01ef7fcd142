"""The recommenders' lessons: a net of the same task over the same catalogue, of whatever sizes.

| task | what the teacher says | bytes a row | distance |
|---|---|---|---|
| `sequence` | logits of all objects, or of target and draws, at each position | 4 T V, or 4 T (1 + K) | divergence |
| `two_tower` | vectors of subject and object | 8 D | divergence over the objects of the whole batch |
| `ranking` | the logit of yes | 4 | divergence of yes and no |

A net that was chosen by a training that then learned everything keeps its twin, which never learned the last part of the
events: the twin teaches, for the student is measured on that part. A closed form has learned it all, and is refused.
"""

from __future__ import annotations

import msgspec
import torch
from torch import Tensor, nn

from gyral.errors import InputError, UsageError
from gyral.model import features
from gyral.model import inputs as model_inputs
from gyral.model.inputs import Inputs
from gyral.model.neural_recommender import net_arrays, net_of
from gyral.model.task import Batch, Gather
from gyral.model.tasks.ranking import Ranking
from gyral.model.tasks.recommending import Recommending
from gyral.model.tasks.retrieval import Retrieval
from gyral.model.tasks.sequence import NextObject
from gyral.model.teaching import SAID, WHERE, Teacher, divergence, divergence_of_two, finite


class NextObjectLesson:
    """A sequence net, SASRec or HSTU."""

    def __init__(self, task: NextObject, net: nn.Module, temperature: float = 1.0) -> None:
        self._task, self._temperature, self._net = task, temperature, silent(net)
        self.flops = task.flops(net) / 3

    @torch.no_grad()
    def said(self, batch: Batch) -> Batch:
        """Logits at all positions [B, T, V or 1 + K], zeros where there is no target."""
        outputs, where = self._net(*self._task.inputs(batch)), self._task.is_target(batch)
        said = outputs.new_zeros(*where.shape, outputs.shape[-1])
        said[where] = outputs
        return {SAID: said}

    def distance(self, outputs: Tensor, batch: Batch, gather: Gather) -> Tensor:
        """Divergence over the targets; draws stand for all objects, for both."""
        if outputs.dim() == 1:
            what, hint = (
                "spread tables give no logits to compare with a teacher's",
                "`--set recommend.negatives=64`, or whole tables",
            )
            raise UsageError(what, where=WHERE, hint=hint)
        said = self._task.logits(batch[SAID][self._task.is_target(batch)])
        given = self._task.logits(outputs)
        if self._task.num_drawn:  # a draw that is the target itself is excluded
            said, given = finite(said), finite(given)
        return divergence(given, said, self._temperature)


class RetrievalLesson:
    """Two towers."""

    def __init__(self, task: Retrieval, net: nn.Module, temperature: float = 1.0) -> None:
        self._task, self._temperature, self._net = task, temperature, silent(net)
        self.flops = task.flops(net) / 3

    @torch.no_grad()
    def said(self, batch: Batch) -> Batch:
        """Vectors of the subject and of the object met, [B, 2, D]."""
        return {SAID: torch.stack(self._net(*self._task.inputs(batch)), dim=1)}

    def distance(self, outputs: tuple[Tensor, Tensor], batch: Batch, gather: Gather) -> Tensor:
        """Divergence over the objects of all ranks' rows."""
        student_BG, _ = self._task.compared(*outputs, batch, gather)
        subjects_BD, objects_BD = batch[SAID].unbind(dim=1)
        teacher_BG, _ = self._task.compared(subjects_BD, objects_BD, batch, gather)
        return divergence(finite(student_BG), finite(teacher_BG), self._temperature)


class RankingLesson:
    """A net of features, DCN-v2 or DLRM."""

    def __init__(self, task: Ranking, net: nn.Module, temperature: float = 1.0) -> None:
        self._task, self._temperature, self._net = task, temperature, silent(net)
        self.flops = task.flops(net) / 3

    @torch.no_grad()
    def said(self, batch: Batch) -> Batch:
        """The logit of each row, [B]."""
        return {SAID: self._net(*self._task.inputs(batch))}

    def distance(self, outputs: Tensor, batch: Batch, gather: Gather) -> Tensor:
        """Divergence of yes and no."""
        return divergence_of_two(outputs, batch[SAID], self._temperature)


def sequence(task: NextObject, teacher: Teacher, temperature: float) -> NextObjectLesson:
    """A lesson by a sequence net that looks at as many events."""
    net = taught_net(task, teacher, ("objects",))
    if (length := teacher.settings["shape"]["length"]) < task.shape.length:
        what = f"`{teacher.name}` looks at {length} events, the student at {task.shape.length}"
        raise InputError(what, where=WHERE, hint=f"`--set recommend.length={length}`")
    return NextObjectLesson(task, net, temperature)


def two_tower(task: Retrieval, teacher: Teacher, temperature: float) -> RetrievalLesson:
    """A lesson by two towers."""
    return RetrievalLesson(task, taught_net(task, teacher, ("objects", "subjects", "countries")), temperature)


def ranking(task: Ranking, teacher: Teacher, temperature: float) -> RankingLesson:
    """A lesson by a net of features."""
    net = taught_net(task, teacher, ("objects", "subjects", "countries"))
    if teacher.settings.get(features.SETTING) != task.settings().get(features.SETTING):
        what, hint = (
            f"`{teacher.name}` reads other features than the student",
            "train both on one dataset, by one `recommend.words`",
        )
        raise InputError(what, where=WHERE, hint=hint)
    return RankingLesson(task, net, temperature)


def taught_net(task: Recommending, teacher: Teacher, names: tuple[str, ...]) -> nn.Module:
    """The teacher's net, as it was before it learned what the student is measured on.

    Parameters
    ----------
    names : of the lists of the vocabulary that both must share.

    Raises
    ------
    InputError : it is a closed form, of another task, of another catalogue, or was kept other events aside.
    """
    kind = teacher.settings.get("net")
    if kind is None:
        why = "it was fitted on all events, those that the student is measured on too"
        hint = f"train a teacher by `--set train.task={task.name}`"
        raise InputError(f"`{teacher.name}` is a closed form and cannot teach", where=WHERE, why=why, hint=hint)
    if kind != task.name:
        what = f"`{teacher.name}` learned `{kind}` and cannot teach `{task.name}`"
        raise InputError(what, where=WHERE, hint=f"`--set train.task={kind}`")
    own = msgspec.json.decode(task.files()[model_inputs.FILE], type=Inputs)
    theirs = model_inputs.load(teacher.folder)
    for name in names:
        mine, other = getattr(own, name), getattr(theirs, name)
        if mine != other:
            more, fewer = len(set(mine) - set(other)), len(set(other) - set(mine))
            why = f"the student has {more:,} that it lacks, and lacks {fewer:,} that it has"
            hint = "train the teacher anew on the student's dataset"
            raise InputError(f"`{teacher.name}` knows other {name} than the student", where=WHERE, why=why, hint=hint)
    _refuse_what_is_asked(task, teacher)
    return net_of(teacher.settings, net_arrays(teacher.weights))


def _refuse_what_is_asked(task: Recommending, teacher: Teacher) -> None:
    """Of more events, or with others kept aside, it has learned what the student is to be asked."""
    kept_aside = [each.get("hold_out", "time") for each in (teacher.settings, task.settings())]
    if kept_aside[0] != kept_aside[1]:
        what = f"`{teacher.name}` kept other events aside than the student: `{kept_aside[0]}`, not `{kept_aside[1]}`"
        raise InputError(what, where=WHERE, hint="give both the same `recommend.hold_out`")
    num_theirs, num_own = len(teacher.weights.arrays["sequence"]), task.num_events
    if num_theirs > num_own:
        what = f"`{teacher.name}` comes from {num_theirs:,} events, the student from {num_own:,}"
        why = "it may have learned some that the student is measured on"
        raise InputError(what, where=WHERE, why=why, hint="train the student on the teacher's dataset, or on a later one")


def silent(net: nn.Module) -> nn.Module:
    """Ready to answer, and never trained."""
    return net.eval().requires_grad_(False)

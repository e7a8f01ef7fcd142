"""Dataset → Model: look up the family's trainer, fit, and publish weights, inputs and card."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from gyral import plugins
from gyral.config import Config
from gyral.model import card as cards
from gyral.model.card import Card
from gyral.run import Run
from gyral.train import neural, resume, sync
from gyral.train.fitted import Fitted
from gyral.train.parallel import axes
from gyral.train.readers import folder


def trainer_of(config: Config) -> Callable[..., Fitted]:
    """The trainer that a configuration chooses: of what ranks learn together, of a task, else the family's own.

    Raises
    ------
    UsageError : no such family.  ConfigError : settings that do not go together.
    """
    fit: Callable[..., Fitted] = plugins.find("trainer", plugins.find("family", config.train.family).name)
    if config.train.task:  # what is learned by gradients is trained in one way, whatever it is
        fit = neural.fit
    return sync.trainer_of(config) or fit


def train(
    root: Path, dataset: str, config: Config, run: Run, *, budget_s: float, name: str = "", resume_from: int | None = None,
    given: Collection[str] | None = None,
) -> Card:  # fmt: skip
    """Train the next version of a model.

    Parameters
    ----------
    dataset : name or name@n of a dataset, or path of a folder of shards (`gyral.train.readers`).
    budget_s : seconds of one laptop core that candidates may cost together.
    name : name of the model; empty takes the dataset's.
    given : dotted names of the settings that stand where the project's law would choose (`gyral.train.budget`); None: those
        that are not at their default.
    resume_from : number of an interrupted run to go on with; `dataset` may be empty then.

    Raises
    ------
    NotFound : no such dataset.  UsageError : no such family.
    """
    family = plugins.find("family", config.train.family)
    if resume_from is not None:
        dataset = resume.adopt(root, resume_from, dataset, config, run)
    data = folder.find(root, dataset)
    run.reads("dataset", data.name)
    fit, task = trainer_of(config), None
    if axes.parse(config.train.parallel) and fit is not neural.fit and family.name == "recommender":
        run.note("closed forms are fitted in one process; `--parallel` is for nets: `--set train.task=sequence`")
    if by_steps := fit is neural.fit:
        from gyral.train import budget

        if resume_from is None:  # else it was chosen when the run began
            choice = budget.settle(root, data, config, run, budget_s, given)
            config, task = choice.config, choice.task
    fitted = neural.fit(root, data, config, run, budget_s, task) if by_steps else fit(root, data, config, run, budget_s)
    if by_steps:
        budget.hold_against(fitted, fitted.metric or family.metric, run)
    card = Card(
        family=family.name,
        dataset=data.name,
        run=run.number,
        seed=config.train.seed,
        metric=fitted.metric or family.metric,
        measured_on=fitted.measured_on,
        learned_until=data.manifest.last_event,
        repeats=data.manifest.repeats,
        num_subjects=data.manifest.subjects,
        num_objects=data.manifest.objects,
        num_interactions=data.manifest.rows_kept,
        candidates=fitted.candidates,
        training=fitted.training,
    )
    cards.publish(root, name or folder.title_of(data), fitted.weights, fitted.inputs, card, fitted.files)
    run.writes("model", card.model)
    if "scale" in card.training:  # learned by steps
        from gyral.train import scale

        scale.keep(root, card, config, run)
    chosen = next(each for each in card.candidates if each["chosen"])
    run.summarize(
        chosen=chosen["name"],
        num_subjects=card.num_subjects,
        num_objects=card.num_objects,
        **{card.metric: chosen[card.metric]},
    )
    floors = ", ".join(f"{each['name']} {each[card.metric]:.4f}" for each in card.candidates if not each["chosen"])
    reached = f"{card.metric} {chosen[card.metric]:.4f}"
    told = f"{chosen['name']} won with {reached} ({floors})" if floors else f"{chosen['name']}, {reached}"  # nobody to win over
    run.note(f"train    {card.model}: {told}")
    return card

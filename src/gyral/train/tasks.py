"""A dataset and the configuration → the task to be trained, behind the hook `task`; with a teacher where one is named.

Every rank opens the task anew from the same words, so nothing but words travels between processes.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from gyral import plugins
from gyral.config import Config
from gyral.errors import NotFound
from gyral.model import card as cards
from gyral.model.task import Task
from gyral.train.readers import folder


def open_task(root: Path, dataset: str, config: Config) -> Task:
    """The task of `train.family` and `train.task` on a dataset, taught by `train.distill`.

    Raises
    ------
    NotFound : no such dataset, or no such teacher.  InputError : they do not fit.
    """
    name = config.train.family if not config.train.task else f"{config.train.family}/{config.train.task}"
    if config.train.start:  # a hook is told no root, so it gets the folder
        train = msgspec.structs.replace(config.train, start=str(folder_of(root, config.train.start)))
        config = msgspec.structs.replace(config, train=train)
    task: Task = plugins.find("task", name)(folder.find(root, dataset), config)
    if config.train.distill:
        from gyral.train.distill import taught_by

        task = taught_by(root, task, config)
    return task


def folder_of(root: Path, start: str) -> Path:
    """The model of this name, or else a folder of transformers.

    Raises
    ------
    NotFound : there is neither.
    """
    try:
        return cards.find(root, start)
    except NotFound:
        if not Path(start).is_dir():
            raise
        return Path(start)

"""What `gyral ingest` does when it does not listen: read a source, repair what was bad, or follow the log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gyral.config import Config
from gyral.errors import Interrupted
from gyral.ingest.files import ingest
from gyral.ingest.following import follow
from gyral.ingest.replay import replay
from gyral.run import Run


def run_verb(root: Path, config: Config, run: Run, where: str | None, follows: bool, resume: str) -> dict[str, Any]:
    """Do it and return the summary that the run keeps.

    Parameters
    ----------
    where : condition on the quarantined rows to repair; None: none are.
    follows : go on until stopped.
    resume : the line that goes on after an interrupt.

    Raises
    ------
    Interrupted : it followed and SIGINT came.
    """
    if where is not None:
        return replay(root, config, run, where)
    if not follows:
        return ingest(root, config, run)
    told = follow(root, config, run)
    if told.pop("was_interrupted"):
        raise Interrupted(f"stopped after {told['accepted']:,} events", hint=resume)
    return told

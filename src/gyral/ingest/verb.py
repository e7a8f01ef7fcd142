"""What `gyral ingest` does when it does not listen: read a source, repair what was bad, register schemas, or follow the log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gyral.config import Config
from gyral.errors import Interrupted
from gyral.ingest.files import ingest
from gyral.ingest.following import follow
from gyral.ingest.replay import replay
from gyral.ingest.schemas import register
from gyral.run import Run


def run_verb(root: Path, config: Config, run: Run, where: str | None, schemas: Path | None, follows: bool) -> dict[str, Any]:
    """Do it and return the summary that the run keeps.

    Parameters
    ----------
    where : condition on the quarantined rows to repair; None: none are.
    schemas : a file of schemas to register; None: none are.
    follows : go on until stopped.

    Raises
    ------
    Interrupted : it followed and SIGINT came.
    """
    if where is not None:
        return replay(root, config, run, where)
    if schemas is not None:
        return register(root, config, run, schemas)
    if not follows:
        return ingest(root, config, run)
    told = follow(root, config, run)
    if told.pop("was_interrupted"):
        raise Interrupted(f"stopped after {told['accepted']:,} events")
    return told

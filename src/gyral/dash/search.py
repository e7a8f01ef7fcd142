"""Words → the runs, datasets and models that have all of them, in their names or in what they brought.

Every word has to be somewhere in an entry, small and capital letters alike. Nothing is indexed: the same records are read that
the lists show, of 1,000 runs in about 15 ms.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gyral.dash.headline import headline
from gyral.dash.records import names, read_card, read_manifest, read_runs

Data = dict[str, Any]
MAX_QUERY = 200
MAX_FOUND = 100


def page(root: Path, query: str) -> Data:
    """What was found; at most the first 200 characters of a query are looked for, and the first 100 entries shown.

    Parameters
    ----------
    query : words with blanks between them; nothing is found where there is none.
    """
    query = query[:MAX_QUERY].strip()
    wanted = query.lower().split()
    found = [each for each in _entries(root) if all(word in each["text"].lower() for word in wanted)] if wanted else []
    shown = [{name: value for name, value in each.items() if name != "text"} for each in found[:MAX_FOUND]]
    return {"query": query, "num_found": len(found), "found": shown, "running": False}


def _entries(root: Path) -> Iterator[Data]:
    """Models and datasets, the newest version first, then runs, the newest first."""
    for name in reversed(names(root, "models")):
        card = read_card(root, name)
        told = f"{card.family}, of {card.dataset}" if card.dataset else card.family
        yield {"kind": "model", "name": name, "page": f"models/{name}", "told": told, "text": f"model {name} {told}"}
    for name in reversed(names(root, "datasets")):
        manifest = read_manifest(root, name)
        told = f"{manifest.kind}, {manifest.source}" if manifest.source else manifest.kind
        yield {"kind": "dataset", "name": name, "page": f"datasets/{name}", "told": told, "text": f"dataset {name} {told}"}
    for run in read_runs(root)[0]:
        nouns = [f"{each.name}@{each.version}" if each.version else each.name for each in [*run.inputs, *run.outputs]]
        told = headline(run.verb, run.summary)
        text = " ".join([f"run #{run.run}", run.verb, run.status, told, run.command, *nouns])
        yield {"kind": "run", "name": f"#{run.run} {run.verb}", "page": f"runs/{run.run}", "told": told, "text": text}

"""Which model answers: named slots, each swapped by replacing one reference while requests go on.

The default slot follows the newest published version of a model name, or is pinned to one. Further slots are named in
`models/<name>.slots.json` (`{"frozen": "shop-int8@1"}`), a file and not a request, so that nobody on the network can change
what is served. A background thread looks every 100 ms; it loads, touches and warms a version before a request can reach it, and
a version that cannot be loaded leaves the old one serving.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from gyral import plugins
from gyral.errors import GyralError
from gyral.files import last_version
from gyral.model import card as cards
from gyral.model.family import Servable

POLL_S = 0.1
DEFAULT = "default"
POPULARITY = "popularity"
"""A slot that is always there: the baseline of the default slot's model."""


class Slots:
    """The models of one server.

    Parameters
    ----------
    root : project folder.
    model : `name` to follow the newest version, `name@n` to pin one.
    note : told about every swap and every version that could not be loaded.
    """

    def __init__(self, root: Path, model: str, note: Callable[[str], None]) -> None:
        self._root = root
        self._name, _, self._pinned = model.partition("@")
        self._note = note
        self._loaded: dict[str, Servable] = {}
        self._loaded_at: dict[str, float] = {}
        self._refused: dict[str, str] = {}
        self._stop = threading.Event()
        self._load(DEFAULT, cards.find(root, model))
        self._update()
        self._thread = threading.Thread(target=self._watch, name="slots", daemon=True)
        self._thread.start()

    def get(self, slot: str | None) -> Servable | None:
        """The model of a slot, None when there is no such slot."""
        return self._loaded.get(slot or DEFAULT)

    def names(self) -> dict[str, str]:
        """Slot → model."""
        return {slot: model.name for slot, model in sorted(self._loaded.items())} | {POPULARITY: self._loaded[DEFAULT].name}

    def loaded_at(self, slot: str = DEFAULT) -> float:
        """When the slot's model began to answer, seconds since the epoch."""
        return self._loaded_at[slot]

    def close(self) -> None:
        """Stop following; may be called twice."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(POLL_S):
            self._update()

    def _update(self) -> None:
        if not self._pinned:
            newest = last_version(self._root / cards.FOLDER, self._name)
            if newest:
                self._want(DEFAULT, f"{self._name}@{newest}")
        for slot, model in self._extra().items():
            self._want(slot, model)

    def _want(self, slot: str, model: str) -> None:
        current = self._loaded.get(slot)
        if (current is not None and current.name == model) or self._refused.get(slot) == model:
            return
        try:
            self._load(slot, cards.find(self._root, model))
        except Exception as error:  # whatever is wrong with a version, the old one goes on serving
            self._refused[slot] = model
            self._note(f"serve    `{model}` cannot be served in the slot `{slot}`, the old one stays: {error}")

    def _load(self, slot: str, folder: Path) -> None:
        for other in self._loaded.values():
            if other.name == folder.name:
                model = other
                break
        else:
            model = plugins.find("family", cards.read_card(folder).family).load(folder)
            model.warm()
        self._loaded_at[slot] = time.time()
        self._loaded[slot] = model
        self._note(f"serve    {model.name} answers in the slot `{slot}`")

    def _extra(self) -> dict[str, str]:
        path = self._root / cards.FOLDER / f"{self._name}.slots.json"
        try:
            named = msgspec.json.decode(path.read_bytes(), type=dict[str, str])
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.DecodeError, GyralError) as error:
            if self._refused.get("slots.json") != str(error):
                self._refused["slots.json"] = str(error)
                self._note(f"serve    {path.name} cannot be read: {error}")
            return {}
        return {slot: model for slot, model in named.items() if slot not in (DEFAULT, POPULARITY)}

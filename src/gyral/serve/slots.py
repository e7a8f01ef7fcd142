"""Which model answers: named slots, each swapped by replacing one reference while requests go on.

The default slot follows the newest published version of a model name, or is pinned to one. Further slots are named in
`models/<name>.slots.json` (`{"frozen": "shop-int8@1"}`), a file and not a request, so that nobody on the network can change
what is served. A background thread looks every 100 ms; it loads, touches and warms a version before a request can reach it.
A version that cannot be loaded leaves the one before it serving, also at the start: a broken publication keeps no server down.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from gyral import plugins
from gyral.errors import GyralError, NotFound, ServeError
from gyral.files import versions
from gyral.model import card as cards
from gyral.serve.wire import POPULARITY

if TYPE_CHECKING:
    from gyral.model.family import Servable

POLL_S = 0.1
DEFAULT = "default"


class _Loaded(NamedTuple):
    """What a slot answers with: the folder it was read from, and when it began (seconds since the epoch)."""

    version: str
    model: Servable
    at: float


class Slots:
    """The models of one server.

    Parameters
    ----------
    root : project folder.
    model : `name` to follow the newest version, `name@n` to pin one.
    note : told about every swap and every version that could not be loaded.
    dress : puts something before a loaded model, such as rules of a shop; None: nothing.

    Raises
    ------
    NotFound : the model has no version.  GyralError : none of its versions can be loaded.
    """

    def __init__(
        self, root: Path, model: str, note: Callable[[str], None], dress: Callable[[Servable], Servable] | None = None
    ) -> None:
        self._dress = dress
        self._folder = root / cards.FOLDER
        self._note = note
        self._loaded: dict[str, _Loaded] = {}
        self._refused: dict[str, int] = {}
        self._slots_error = ""
        self._stop = threading.Event()
        newest = cards.find(root, model)
        self._wanted = newest.name if "@" in model else model
        self._follow(DEFAULT, self._wanted)
        if DEFAULT not in self._loaded:
            self._read(newest)  # raises what is wrong with it
        self._follow_extra()
        self._thread = threading.Thread(target=self._watch, name="slots", daemon=True)
        self._thread.start()

    def get(self, slot: str | None) -> Servable | None:
        """The model of a slot, None when there is no such slot."""
        loaded = self._loaded.get(slot or DEFAULT)
        return loaded.model if loaded is not None else None

    @property
    def default(self) -> Servable:
        """The model of the default slot, which is always there."""
        return self._loaded[DEFAULT].model

    def names(self) -> dict[str, str]:
        """Slot → model."""
        loaded = list(self._loaded.items())  # one step, the thread may add and remove meanwhile
        named = {slot: each.model.name for slot, each in sorted(loaded)}
        return named | ({} if self.default.routes else {POPULARITY: self.default.name})

    def loaded_at(self, slot: str = DEFAULT) -> float:
        """When the slot's model began to answer, seconds since the epoch; 0 when there is no such slot."""
        loaded = self._loaded.get(slot)
        return loaded.at if loaded is not None else 0.0

    def close(self) -> None:
        """Stop following; may be called twice."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(POLL_S):
            try:
                self._follow(DEFAULT, self._wanted)
                self._follow_extra()
            except Exception as error:  # the folder cannot be listed just now: what is loaded goes on serving
                self._complain(f"`{self._folder}` cannot be followed: {error}")

    def _follow_extra(self) -> None:
        extra = self._extra()
        if extra is None:
            return
        for slot in [slot for slot in self._loaded if slot != DEFAULT and slot not in extra]:
            del self._loaded[slot]
            self._note(f"serve    the slot `{slot}` is gone")
        for slot, model in extra.items():
            self._follow(slot, model)

    def _follow(self, slot: str, model: str) -> None:
        """Put the newest version that loads into a slot; versions older than the one that answers are never tried."""
        serving = self._loaded[slot].version if slot in self._loaded else ""
        name, is_pinned, _ = model.partition("@")
        if is_pinned:
            newer = [model] if model != serving else []
        else:
            base, _, number = serving.partition("@")
            least = int(number) if base == name else 0
            newer = [f"{name}@{n}" for n in reversed(versions(self._folder, name)) if n > least]
        for version in newer:
            if self._load(slot, version):
                return

    def _load(self, slot: str, version: str) -> bool:
        """Load and swap; a version that was refused is tried again only when its folder has changed."""
        changed_ns = self._changed_ns(version)
        key = f"{slot}={version}"
        if self._refused.get(key) == changed_ns:
            return False
        try:
            known = next((each.model for each in self._loaded.values() if each.version == version), None)
            model = known or self._read(self._folder / version)
        except GyralError as error:
            self._refused[key] = changed_ns
            stays = self._loaded[slot].version if slot in self._loaded else "nothing"
            self._note(f"serve    `{version}` cannot be served in the slot `{slot}`, {stays} stays there: {error}")
            return False
        self._loaded[slot] = _Loaded(version, model, time.time())
        self._note(f"serve    {model.name} answers in the slot `{slot}`")
        return True

    def _read(self, folder: Path) -> Servable:
        if cards.find(folder.parent.parent, folder.name) != folder:  # a name from a file never leaves the models folder
            raise NotFound(f"there is no model `{folder.name}`", where=str(folder.parent), hint="write `name@number`")
        try:
            model: Servable = plugins.find("family", cards.read_card(folder).family).load(folder)
            model.warm()
            if self._dress is not None:
                model = self._dress(model)
        except GyralError:
            raise
        except Exception as error:  # whatever a family does to a damaged folder
            raise ServeError(f"`{folder.name}` cannot be loaded", why=f"{type(error).__name__}: {error}") from error
        return model

    def _changed_ns(self, version: str) -> int:
        try:
            return (self._folder / version).stat().st_mtime_ns
        except OSError:
            return 0

    def _extra(self) -> dict[str, str] | None:
        """Slots named in the file; None when it cannot be read, and those that are there stay."""
        path = self._folder / f"{self._wanted.partition('@')[0]}.slots.json"
        try:
            named = msgspec.json.decode(path.read_bytes(), type=dict[str, str])
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:  # msgspec's and Unicode's errors are ValueErrors
            self._complain(f"{path.name} cannot be read: {error}")
            return None
        self._slots_error = ""
        return {slot: model for slot, model in named.items() if slot not in (DEFAULT, POPULARITY)}

    def _complain(self, text: str) -> None:
        if text != self._slots_error:
            self._slots_error = text
            self._note(f"serve    {text}")

"""From a language model that is loaded to the engine that writes with it, made before a request can reach it.

Models of the Llama layout write in one batch (`model.decoding.engine`), whose passes are ours or OpenVINO's, those of others
text by text (`model.decoding.alone`).
A version has pages and a tree of beginnings of its own, so nothing that was computed with other weights is ever found, and its
thread shares nothing with that of the version before; memory of pages is taken as it is used and goes with the version.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

from gyral.config.sections import Decode
from gyral.errors import ConfigError, InputError
from gyral.model import card as cards
from gyral.model.family import Servable
from gyral.serve.engine import Engine
from gyral.serve.openai.upstream import Remote, Upstream
from gyral.serve.openai.writer import Decodes, Writer
from gyral.serve.packaged import is_source, packaged

if TYPE_CHECKING:
    from gyral.model.decoding.forward import Forward, Pass
    from gyral.model.decoding.pages import Pages
    from gyral.model.lm import Reader


class Engines:
    """Makes the engines of a server.

    Parameters
    ----------
    root : project folder, where the small model is looked for.
    """

    def __init__(self, config: Decode, root: Path, note: Callable[[str], None] = print) -> None:
        self._config, self._root, self._note = config, root, note
        self._made: dict[str, Writer] = {}
        self._draft: Forward | None = None

    def make(self, model: Servable) -> Servable:
        """Make the engine of a model that was just loaded, and run it once; the model is given back as it is.

        Raises
        ------
        GyralError : it cannot write with these settings.
        """
        if model.card.get("family") == "lm" and not isinstance(model, Remote):
            name = model.name.partition("@")[0]
            for other in [each for each in self._made if each.partition("@")[0] == name]:
                del self._made[other]  # nobody has asked it
            self._made[model.name] = self._new(model)
        return model

    def __call__(self, model: Servable) -> Engine:
        """The engine of a model, once."""
        if isinstance(model, Remote):
            return Upstream(model)
        return self._made.pop(model.name, None) or self._new(model)

    def _new(self, model: Servable) -> Writer:
        reader, config = cast("Reader", model), self._config
        found = Writer(reader, model.name, self._decodes(reader, model.name), config)
        found.warm()
        return found

    def _decodes(self, reader: Reader, version: str) -> Decodes:
        from gyral.model.decoding.alone import Alone
        from gyral.model.decoding.engine import Decoding, Limits
        from gyral.model.decoding.prefix import Prefixes
        from gyral.model.decoding.speculate import Drafter
        from gyral.model.nets.llama import Llama

        config, shape = self._config, reader.shape
        is_ours = config.engine == "gyral"
        if is_ours and (not isinstance(reader.model, Llama) or shape.head_width % 4):
            return Alone(reader.model, reader.length, shape.vocab, config.running, reader.turn)
        drafter = None
        if config.draft:
            small = self._draft = self._draft or self._small(config.draft)
            drafter = Drafter(small, self._pages(small), shape.vocab, config.guesses)
        forward: Pass = self._by_us(reader) if is_ours else self._by_openvino(reader)
        pages = self._pages(forward)
        prefixes = Prefixes(pages) if config.prefix_cache else None
        limits = Limits(running=config.running, tokens_beside=config.chunk)
        return Decoding(forward, pages, prefixes, version, limits, drafter)

    def _by_us(self, reader: Reader) -> Forward:
        from gyral.model.decoding.forward import Forward, plain
        from gyral.model.quant.reordered import reordered

        return Forward(reader.model, reader.length, reordered if self._config.reordered else plain)

    def _by_openvino(self, reader: Reader) -> Pass:
        from gyral.model.decoding.openvino import OpenVinoForward

        if self._config.kv != "float32":
            why = "it keeps int8 keys and values in a form of its own"
            hint = 'set `decode.kv = "float32"` or `decode.engine = "gyral"`'
            raise ConfigError("OpenVINO decodes over float32 pages only", why=why, where="decode.kv", hint=hint)
        return OpenVinoForward(reader.model, reader.length)

    def _pages(self, forward: Pass) -> Pages:
        """As many as the memory holds, and no more than can be of use."""
        from gyral.model.decoding.pages import Pages

        shape, config = forward.shape, self._config
        sizes = (shape.depth, shape.kv_heads, shape.head_width, config.kv == "int8")
        each = Pages.size_bytes(*sizes, forward.page)
        if config.kv_bytes < each:
            hint = f"{each * -(-forward.length // forward.page):,} hold one whole sequence"
            why = f"{forward.page} positions take {each:,} bytes"
            raise ConfigError("`decode.kv_bytes` is too small for this model", why=why, hint=hint)
        most = 4 * config.running * -(-forward.length // forward.page)
        return Pages(min(config.kv_bytes // each, most), *sizes, forward.page)

    def _small(self, name: str) -> Forward:
        """The small model: of the project, or of a package or a path."""
        from gyral.model.lm import LM
        from gyral.model.nets.llama import Llama

        if is_source(name):
            reader: Reader = cast("Reader", packaged(name, self._note).default)
        else:
            folder = cards.find(self._root, name)
            if cards.read_card(folder).family != "lm":
                raise InputError(
                    f"`{name}` guesses no tokens", why="it is no language model", hint="name one in `decode.draft`"
                )
            reader = LM.load(folder)
        if not isinstance(reader.model, Llama):
            raise InputError(
                f"`{name}` cannot guess ahead",
                why="it is not of the Llama layout",
                where="decode.draft",
                hint="name one that is",
            )
        return self._by_us(reader)

"""The family `lm`: how a language model is stored, loaded and asked.

Quality is bits per byte of text that was kept aside: less is better, and it compares models of any tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from torch import Tensor

from gyral.errors import UsageError
from gyral.lake.dataset import Dataset
from gyral.model import card as cards
from gyral.model import decoder
from gyral.model.chat import PLAIN, Chat, chat_of
from gyral.model.decoder import Decoder
from gyral.model.family import Trial
from gyral.model.generate import Completion, Sampler, Utf8, generate
from gyral.model.lm_routes import routes_of
from gyral.model.lm_twin import LmTwin
from gyral.model.portable import Portable
from gyral.model.shards import encoded
from gyral.model.stream import Stream, Text, rows_of
from gyral.model.tasks.next_token import bits_of, inputs_of
from gyral.model.tokenizer import Tokenizer

TRIAL_TOKENS = 64
MAX_TOKENS = 65_536
"""Of one completion."""


class Scores(NamedTuple):
    """Bits that each text takes, its end included, float64 [n], and the bytes it has, int64 [n]; the tokens of all of them."""

    bits: np.ndarray
    size_bytes: np.ndarray
    num_tokens: int

    @property
    def bits_per_byte(self) -> float:
        """Of all texts together."""
        return float(self.bits.sum() / max(int(self.size_bytes.sum()), 1))


class Reader:
    """Text in, text out, of a decoder with its tokens.

    Calls come from one thread; what else runs `model` (an engine that writes for others) holds `turn` meanwhile.

    Attributes
    ----------
    chat : how a conversation becomes a prompt.
    """

    def __init__(self, found: Decoder, chat: Chat = PLAIN) -> None:
        self.turn, self.chat = Lock(), chat
        self.shape, self.length, self.end = found.shape, found.length, found.end
        self.tokenizer = Tokenizer(found.tokenizer) if found.tokens != "bytes" else None
        self.model = found.build()

    @torch.inference_mode()
    def score(self, texts: Sequence[str], stride: int = 0) -> Scores:
        """How well it foretells texts.

        Parameters
        ----------
        stride : tokens that a window adds to the one before; 0: half of it, so that a token is foretold from the half window
            before it at least.
        """
        stream = self._stream(texts)
        with self.turn:
            bits = bits_of(self.model, stream, self.length, self.shape.vocab, stride=stride or max(self.length // 2, 1))
        return Scores(bits, stream.sizes, int(stream.ends[-1]) if len(stream.ends) else 0)

    def complete(
        self,
        prompt: str,
        max_tokens: int = 256,
        temperature: float = 1.0,
        top_p: float = 1.0,
        stop: Sequence[str] = (),
        seed: int = 0,
    ) -> Completion:
        """Go on writing after a prompt; an empty one begins a text.

        Parameters
        ----------
        temperature : 0 takes the likeliest token each time.
        stop : texts before which the answer ends.

        Raises
        ------
        UsageError : a setting is out of its range.
        """
        if not 0 <= max_tokens <= MAX_TOKENS or temperature < 0 or not 0 < top_p <= 1 or not all(stop):
            hint = f"`max_tokens` 0 to {MAX_TOKENS:,}, `temperature` from 0, `top_p` above 0 to 1, no empty `stop`"
            raise UsageError("the completion cannot be made as asked", hint=hint)
        sampler, letters = Sampler(temperature, top_p, seed), Utf8()
        tokens: list[int] = []
        logprobs: list[float] = []
        ended_by, text = "length", ""

        def draw(logits: np.ndarray) -> int | None:
            nonlocal ended_by, text
            token, logprob = sampler(logits, letters.allowed(len(logits)) if self.tokenizer is None else None)
            tokens.append(token)
            logprobs.append(logprob)
            if token == self.end:
                ended_by = "end"
                return None
            if self.tokenizer is None:
                letters.push(token)
            text = self._text(tokens, letters)
            found = [at for each in stop if (at := text.find(each)) >= 0]
            if found:
                ended_by, text = "stop", text[: min(found)]
                return None
            return token

        read = [self.end, *self.tokens(prompt)]
        generate(self.model, read, self.length, draw, max_tokens, turn=self.turn)
        return Completion(text, tokens, logprobs, ended_by, len(read) - 1)  # type: ignore[arg-type]

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """A vector for each text, float32 [n, D]: the mean of the last stream over its first `length` tokens."""
        vectors = np.zeros((len(texts), self.shape.width), np.float32)
        for row, text in enumerate(texts):
            vectors[row] = self.vector(self.tokens(text))
        return vectors

    @torch.inference_mode()
    def vector(self, tokens: Sequence[int]) -> np.ndarray:
        """The vector of one text, float32 [D]."""
        seen = np.array([self.end, *tokens][: self.length + 1], np.uint32)
        batch = rows_of(np.append(seen, self.end)[None], np.zeros((1, len(seen) + 1), np.int64))
        with self.turn:
            stream: Tensor = self.model.stream(*inputs_of(batch))  # type: ignore[operator]
            found: np.ndarray = self.model.norm(stream)[0].mean(0).numpy()  # type: ignore[operator]
        return found

    def warm(self) -> None:
        """Run once."""
        self.complete("", max_tokens=2)

    def _stream(self, texts: Sequence[str]) -> Stream:
        if self.tokenizer is None:
            return Text([text.encode() for text in texts])
        return encoded(texts, self.tokenizer, self.end)

    def tokens(self, text: str) -> list[int]:
        """Of a text; nothing is added, and nothing in it is a special token."""
        if self.tokenizer is None:
            return list(text.encode())
        found: list[int] = self.tokenizer.encode([text]).tokens.tolist()
        return found

    def bytes_of(self, token: int) -> bytes:
        """Of one token; the end of a document has those of its name."""
        if self.tokenizer is not None:
            return self.tokenizer.bytes_of(token)
        return bytes([token]) if token < 256 else b""

    def _text(self, tokens: list[int], letters: Utf8) -> str:
        if self.tokenizer is None:
            return letters.text.decode()
        return self.tokenizer.decode(tokens).rstrip("\ufffd")


class ServableLm(Reader):
    """A language model of a folder."""

    def __init__(self, folder: Path) -> None:
        card = cards.read_card(folder)
        self.name = card.model
        self.card: dict[str, Any] = msgspec.to_builtins(card)
        super().__init__(decoder.read(folder), chat_of(folder))
        self.routes = routes_of(self)

    def bits_per_byte(self, texts: list[str]) -> float:
        """How well it foretells texts, as training measures it: each window begins anew."""
        return self.score(texts, stride=self.length).bits_per_byte


class LmFamily:
    """What comes next in a text."""

    name = "lm"
    metric = "bits_per_byte"
    matrices = (
        "blocks.*.attention.query.weight", "blocks.*.attention.key.weight", "blocks.*.attention.value.weight",
        "blocks.*.attention.out.weight", "blocks.*.gate.weight", "blocks.*.up.weight", "blocks.*.down.weight",
        "embed.weight", "logits.weight",
    )  # fmt: skip

    tried = (
        "bf16", "int8", "int4", "int4-mixed", "prune-0.2", "prune-0.2+int8", "prune-0.2+int4", "2:4+int8", "rank-0.7+int8",
    )  # fmt: skip

    def trial(self, servable: ServableLm) -> Trial:
        """Prompts of `TRIAL_TOKENS` tokens are read; tokens are drawn for one text after the other."""
        length = min(servable.length, TRIAL_TOKENS)
        shown = np.random.default_rng(0).integers(0, servable.shape.vocab, (8, length))

        @torch.inference_mode()
        def answer(size: int) -> Tensor:
            places = torch.arange(length)[None].expand(size, -1)
            logits: Tensor = servable.model(torch.from_numpy(shown[:size]), places)
            return logits

        return Trial(answer, lambda: len(servable.complete("", TRIAL_TOKENS, seed=0).tokens), "tokens")

    def load(self, folder: Path) -> ServableLm:
        """Read a model folder."""
        return ServableLm(folder)

    def twin(self, data: Dataset, weights: cards.Weights, seed: int, folder: Path) -> LmTwin:
        """The model itself: it has not learned the text that was kept aside."""
        return LmTwin(data, weights, seed, decoder.tokenizer_of(folder))

    def erase(self, folder: Path, subject: str) -> bool:
        """It holds nobody's name."""
        return False

    def portable(self, folder: Path) -> Portable:
        """All of it."""
        return Portable({}, ("torch",))


LM = LmFamily()

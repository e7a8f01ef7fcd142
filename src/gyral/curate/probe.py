"""Does a stage help? A small language model is trained on text with it and without, and asked how well it foretells clean text.

The model is over bytes, the six before foretell the next (interpolated Kneser–Ney, one discount a length). It trains on 14–17
MB of text a CPU-second on a quiet machine (8 on one that runs fourteen programs), so ten variants at 10 MB each take half a
minute with reading and scoring. On 1.8 MB of German documentation it reads held-out text at 1.67 bits per byte; xz, with the
same text before it, at 1.81. Measured and rejected: order 6 (1.73, half again as fast), order 8 (1.65, a third slower, twice
the table), Witten–Bell instead of Kneser–Ney (1.71 at order 7, 1.72 at 8: it grows worse with the order).

What keeps it from being fooled:

- every variant is trained on *equally many bytes*, so a stage does not win by removing less; ask with `budget_bytes=0` for what
  each variant gives at its own size;
- documents are drawn by a hash of their text, so variants that share a document train on the same one, and what differs is the
  stage; a copy of a document is drawn on its own, so duplicates stay duplicates;
- the text that is foretold is never trained on: documents with its digest are left out, and of others every passage that shares
  13 words in a row with it (8, with a document that has fewer than 13);
- the interval is over held-out documents, and for the change against the first variant over the same documents in pairs. It
  does not hold the chance of another training sample, which at 10 MB was as large again (standard deviation .014 of a change
  of −.027): probe under several seeds before a change of that size is believed.

What it cannot say: a model that counts seven bytes sees spelling, words, phrases, boilerplate and language, not sense.

Source: Kneser and Ney 1995; Chen and Goodman 1999, sections 2.7 and 3 (discount n1 / (n1 + 2 n2)); the cut by 13 words in a row
is that of Brown et al. 2020, appendix C.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol

import msgspec
import numpy as np
import pyarrow as pa

from gyral.curate.stage import utf8
from gyral.errors import InputError

ORDER = 7
BUDGET_BYTES = 10_000_000
RESAMPLES = 1_000
LONG, SHORT = 13, 8
"""Words in a row that training text may not share with a held-out document, and with one of fewer than 13 words."""
_MIN_BITS, _MAX_BITS = 18, 24
"""Slots of the table, 16 bytes each: 4 MB to 256 MB."""


class Row(msgspec.Struct, frozen=True):
    """What one variant gave.

    Attributes
    ----------
    bits_per_byte, low, high : of the held-out text, with the 95 % interval over its documents.
    bytes : trained on.
    change, change_low, change_high : against the first variant; below 0 is better.
    shared_bytes : that were left out because the held-out text has them.
    """

    name: str
    bits_per_byte: float
    low: float
    high: float
    bytes: int
    change: float
    change_low: float
    change_high: float
    shared_bytes: int


class Scorer(Protocol):
    """A trained model: bits that each text takes, float64 [n]."""

    def __call__(self, texts: pa.StringArray) -> np.ndarray: ...


Trainer = Callable[[Iterable[pa.StringArray]], Scorer]


class Ngrams:
    """A model that counts n-grams of bytes. Texts longer than a table has room for are still read: see `probe_kernel.count`.

    Parameters
    ----------
    texts : what it learns.
    size_bytes : about how much that will be, for the size of the table.
    """

    def __init__(self, texts: Iterable[pa.StringArray], size_bytes: int = BUDGET_BYTES, order: int = ORDER) -> None:
        from gyral.curate import probe_kernel as kernel

        self._kernel, self._order = kernel, order
        self._bits = min(max(_MIN_BITS, size_bytes.bit_length()), _MAX_BITS)
        self._table = np.zeros((1 << self._bits, 4), np.uint32)
        seen, used = np.zeros((order + 1, 2), np.int64), 0
        for batch in texts:
            data, bounds = utf8(batch)
            used = kernel.count(data, bounds.astype(np.int64), self._table, self._bits, order, seen, used)
        once, twice = seen[:, 0], seen[:, 1]
        self._discounts = np.clip(once / np.maximum(once + 2 * twice, 1), 0.1, 0.95)

    def __call__(self, texts: pa.StringArray) -> np.ndarray:
        """Bits that each text takes."""
        data, bounds = utf8(texts)
        into = np.zeros(len(texts))
        places = bounds.astype(np.int64)
        self._kernel.bits_of(data, places, self._table, self._bits, self._order, self._discounts, into)
        return into


class _Words(NamedTuple):
    """Words of a text: hashes, where each begins and ends, and how many there are."""

    hashes: np.ndarray
    begins: np.ndarray
    ends: np.ndarray
    number: int


class Shared:
    """What training text must not have in common with the held-out text.

    A held-out document of fewer words than the long window is looked for by the short one, and a shorter one by its digest.
    """

    def __init__(self, held_out: pa.StringArray) -> None:
        from gyral.curate import probe_kernel as kernel

        self._kernel = kernel
        texts = [text.encode() for text in held_out.to_pylist() if text]
        self._digests = {_digest(text) for text in texts}
        words = [_words(text) for text in texts]
        self._tables = {
            LONG: self._table([each for each in words if each.number >= LONG], LONG),
            SHORT: self._table([each for each in words if SHORT <= each.number < LONG], SHORT),
        }

    def without(self, text: bytes) -> list[bytes]:
        """The parts of a text that are not in the held-out text."""
        if _digest(text) in self._digests:
            return []
        parts = [text]
        for window, table in self._tables.items():
            if len(table):
                parts = [left for part in parts for left in self._cut(part, window, table)]
        return parts

    def _cut(self, text: bytes, window: int, table: np.ndarray) -> list[bytes]:
        words = _words(text)
        hashes, number = self._windows(words, window)
        spans = np.empty((max(number, 1), 2), np.int64)
        found = self._kernel.shared(table, hashes, number, window, words.begins, words.ends, spans)
        bounds = [0, *spans[:found].ravel().tolist(), len(text)]
        return [text[begin:end] for begin, end in zip(bounds[::2], bounds[1::2], strict=True) if begin < end]

    def _table(self, texts: list[_Words], window: int) -> np.ndarray:
        """A set of the windows of some texts."""
        found = [self._windows(words, window) for words in texts]
        number = sum(count for _, count in found)
        table = np.zeros(1 << (2 * number).bit_length() if number else 0, np.uint64)
        for hashes, count in found:
            self._kernel.insert(table, hashes, count)
        return table

    def _windows(self, words: _Words, window: int) -> tuple[np.ndarray, int]:
        hashes = np.empty(max(words.number, 1), np.uint64)
        return hashes, self._kernel.windows(words.hashes, words.number, window, hashes)


def _words(text: bytes) -> _Words:
    from gyral.curate import probe_kernel as kernel

    room = len(text) // 2 + 1 if text.isascii() else len(text)
    hashes, begins, ends = np.empty(room, np.uint64), np.empty(room, np.int64), np.empty(room, np.int64)
    return _Words(hashes, begins, ends, kernel.words(np.frombuffer(text, np.uint8), 0, len(text), hashes, begins, ends))


class _Drawn(NamedTuple):
    """Documents of a variant in the order of their draw, each as the parts that are left of it."""

    documents: list[list[bytes]]
    size_bytes: int
    shared_bytes: int


def probe(
    variants: Mapping[str, Iterable[pa.StringArray]],
    held_out: pa.StringArray,
    budget_bytes: int = BUDGET_BYTES,
    seed: int = 0,
    trainer: Trainer | None = None,
) -> list[Row]:
    """Train on each variant and score the held-out text.

    Parameters
    ----------
    variants : name → its texts in batches; the first is what the others are compared with.
    held_out : clean text kept aside, at least two documents.
    budget_bytes : that each is trained on; less where the smallest variant has less. 0: all of each.
    trainer : texts → scorer, instead of counting n-grams. It may see texts in parts, where passages were left out.

    Returns
    -------
    One row a variant, in their order.

    Raises
    ------
    InputError : the held-out text has fewer than two documents that are not empty, or a variant has no text.
    """
    held_out = held_out.filter(pa.compute.greater(pa.compute.binary_length(held_out), 0))
    if len(held_out) < 2:
        raise InputError(
            "a probe needs two documents of held-out text", why=f"there are {len(held_out)}", hint="curate more documents"
        )
    shared = Shared(held_out)
    drawn = {name: _draw(texts, shared, budget_bytes, seed) for name, texts in variants.items()}
    for name, each in drawn.items():
        if not each.size_bytes:
            raise InputError(f"the variant `{name}` has no text to train on", hint="keep other text aside, or more of it")
    size_bytes = min((each.size_bytes for each in drawn.values()), default=0) if budget_bytes else 0
    bits = {}
    for name, each in drawn.items():
        limit = min(size_bytes, budget_bytes) if budget_bytes else each.size_bytes
        batches = _batches(each.documents, limit)
        model = trainer(batches) if trainer else Ngrams(batches, limit)
        bits[name] = model(held_out), limit, each.shared_bytes
    return _rows(bits, pa.compute.binary_length(held_out).to_numpy().astype(np.float64), seed)


def _draw(texts: Iterable[pa.StringArray], shared: Shared, budget_bytes: int, seed: int) -> _Drawn:
    """The documents with the lowest hashes that have the budget together; of equal documents each has a hash of its own."""
    heap: list[tuple[int, int, list[bytes]]] = []
    times: dict[int, int] = {}
    held, shared_bytes = 0, 0
    key = seed.to_bytes(8, "little")
    for batch in texts:
        for text in batch.to_pylist():
            if not text:
                continue
            body = text.encode()
            digest = _digest(body)
            number = times[digest] = times.get(digest, -1) + 1
            rank = _digest(digest.to_bytes(8, "little") + number.to_bytes(8, "little") + key)
            if budget_bytes and held >= budget_bytes and rank > -heap[0][0]:
                continue
            parts = shared.without(body)
            size = sum(map(len, parts))
            shared_bytes += len(body) - size
            if not size:
                continue
            heapq.heappush(heap, (-rank, size, parts))
            held += size
            while budget_bytes and held - heap[0][1] >= budget_bytes:
                held -= heapq.heappop(heap)[1]
    heap.sort(key=lambda each: -each[0])
    return _Drawn([parts for _, _, parts in heap], held, shared_bytes)


def _batches(documents: list[list[bytes]], limit: int, batch_bytes: int = 4 << 20) -> Iterator[pa.StringArray]:
    """Arrays of the parts until they have as many bytes; the last part is cut there."""
    parts: list[bytes] = []
    size, left = 0, limit
    for document in documents:
        for part in document:
            cut = part[:left]
            parts.append(cut)
            size, left = size + len(cut), left - len(cut)
        if size >= batch_bytes or left <= 0:
            yield pa.array([part.decode(errors="ignore") for part in parts], pa.string())
            parts, size = [], 0
        if left <= 0:
            return
    if parts:
        yield pa.array([part.decode(errors="ignore") for part in parts], pa.string())


def _rows(bits: Mapping[str, tuple[np.ndarray, int, int]], size_bytes: np.ndarray, seed: int) -> list[Row]:
    """Bits per byte of each variant with intervals by resampling documents, the same resamples for all."""
    random = np.random.default_rng(seed)
    number = len(size_bytes)
    times = np.stack([np.bincount(random.integers(0, number, number), minlength=number) for _ in range(RESAMPLES)])
    samples = {name: times @ found / (times @ size_bytes) for name, (found, _, _) in bits.items()}
    means = {name: float(found.sum() / size_bytes.sum()) for name, (found, _, _) in bits.items()}
    first = next(iter(bits), "")
    rows = []
    for name, (_, trained, shared_bytes) in bits.items():
        low, high = np.percentile(samples[name], [2.5, 97.5]).tolist()
        change_low, change_high = np.percentile(samples[name] - samples[first], [2.5, 97.5]).tolist()
        change = means[name] - means[first]
        rows.append(Row(name, means[name], low, high, trained, change, change_low, change_high, shared_bytes))
    return rows


def _digest(body: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(body, digest_size=8).digest(), "little")

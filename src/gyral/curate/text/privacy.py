"""What is about a person, or opens a door, in a text: found exactly, kept as places, replaced only where a text is read.

Two kernels look at every byte once, one for mail and keys, one for numbers; together about a gigabyte a CPU second.
Each kind has its own column of places, so what is replaced can be chosen after the texts were read. A place is taken only where
a checksum, a registry or a fixed form says so. That costs recall and is meant to: a corpus full of wrongly replaced version
numbers is of no use, and no rule finds names or street addresses at all.

| kind | found where |
|---|---|
| `email` | a mailbox at a domain that can be one, not `logo@2x.png`; ids of messages look the same |
| `ip`, `private_ip` | IPv4 and IPv6, of the public internet or not; no versions and numbers of sections |
| `phone` | `+` and a country; `(415) 555-2671` and the like; any other only after `tel.`, `fax` … |
| `card` | issuer, length, grouping and Luhn's sum; not after `order`, `isbn` … |
| `iban` | in capitals: length by country and the remainder modulo 97 |
| `ssn` | `ddd-dd-dddd` in the ranges that are given out |
| `secret` | keys of twelve services by their form, JSON web tokens, private keys; no passwords |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from gyral.config import Config
from gyral.curate.stage import CUTS, Columns, Cut, Limit, Stage, add, numbers, utf8

KINDS = ("email", "secret", "ip", "private_ip", "phone", "card", "iban", "ssn")
"""First those of the tokens' kernel, then those of the numbers', as they number them."""
_REPLACEMENTS = {"private_ip": "<IP>"}
_MIN_BYTES = 3
"""A find has that many at least."""


@dataclass(frozen=True)
class Privacy(Stage):
    """Adds the places of what is private: `cut_KIND` (of the type `CUTS`) and how many, `num_KIND`, for each of `KINDS`.

    Places of different kinds do not overlap.
    """

    name: ClassVar[str] = "privacy"
    version: ClassVar[int] = 1

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        data, offsets = utf8(batch.column("text"))
        rows, kinds, begins, ends = find(data, offsets)
        columns: dict[str, pa.Array] = {}
        for number, kind in enumerate(KINDS):
            own = kinds == number
            counts = np.bincount(rows[own], minlength=batch.num_rows).astype(np.int32)
            places = np.stack([begins[own], ends[own]], axis=1).ravel()
            bounds = np.concatenate([[0], 2 * np.cumsum(counts)]).astype(np.int32)
            columns[f"cut_{kind}"] = pa.ListArray.from_arrays(bounds, places.astype(np.int32), type=CUTS)
            columns[f"num_{kind}"] = pa.array(counts)
        return add(batch, columns)

    def limits(self, config: Config) -> Sequence[Limit]:
        if not config.privacy.max_found:
            return ()
        columns = [f"num_{kind}" for kind in config.privacy.redact]

        def found(signals: Columns) -> np.ndarray:
            return np.asarray(sum(numbers(signals, column) for column in columns))

        return (Limit("privacy_much", "privacy.max_found", columns, found, ">", config.privacy.max_found),) if columns else ()

    def cuts(self, config: Config) -> Sequence[Cut]:
        return [
            Cut(f"cut_{kind}", "privacy.redact", _REPLACEMENTS.get(kind, f"<{kind.upper()}>")) for kind in config.privacy.redact
        ]


def find(data: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Everything private in texts.

    Parameters
    ----------
    data : uint8, UTF-8.
    offsets : int32 [n + 1], where each text begins.

    Returns
    -------
    rows, kinds, begins, ends : of what was found, in order; begins and ends in bytes from the begin of the text.
    """
    from gyral.curate.text import privacy_numbers_kernel, privacy_tokens_kernel

    room = int(offsets[-1] - offsets[0]) // _MIN_BYTES + 1
    found, first_kind = [], 0
    for kernel, count_kinds in ((privacy_tokens_kernel, 2), (privacy_numbers_kernel, 6)):
        rows, begins, ends = (np.empty(room, np.int32) for _ in range(3))  # memory that is not written to takes none
        kinds = np.empty(room, np.uint8)
        count = kernel.scan(data, offsets, rows, kinds, begins, ends)
        found.append([rows[:count].copy(), kinds[:count] + np.uint8(first_kind), begins[:count].copy(), ends[:count].copy()])
        first_kind += count_kinds
    rows, kinds, begins, ends = (np.concatenate(pair) for pair in zip(*found, strict=True))
    order = np.lexsort((-ends, begins, rows))
    rows, kinds, begins, ends = rows[order], kinds[order], begins[order], ends[order]
    # of two that overlap, which only the two kernels can bring, the first and longer one stays
    reach = np.maximum.accumulate(rows.astype(np.int64) << 32 | ends) if len(rows) else ends
    free = np.ones(len(rows), bool)
    free[1:] = (rows[1:].astype(np.int64) << 32 | begins[1:]) >= reach[:-1]
    return rows[free], kinds[free], begins[free], ends[free]

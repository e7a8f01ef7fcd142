"""The stage `repair`: text as it was meant, before anything is computed of it.

- UTF-8 that was once read as Windows-1252 or Windows-1251 is read again (`CafÃ©` → `Café`), once or twice. It is done only
  where nine of ten runs of other-than-ASCII characters of a text decode that way, so a quotation of such text stays.
- Unicode is composed (NFC), so one word is one sequence of bytes.
- Control characters and what is no character go; so do the soft hyphen, the zero-width space, the word joiner and the byte
  order mark. Joiners of Persian, Indic scripts and emoji stay, since without them another word is read.
- Lines end in `\\n`.

This is the one stage that replaces a text, and it stands right behind `extract`: every signal is about the repaired text. One
pass of a kernel finds the few texts that need it.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gyral.curate.stage import Stage, add, utf8

MOJIBAKE, NORMAL, CONTROL, INVISIBLE, LINE_END = 1, 2, 4, 8, 16
"""Bits of the signal `repaired`: what was changed."""
_RUN = re.compile(r"[^\x00-\x7f]+")
_NO_CHARACTERS = "".join(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF))
_CONTROLS = re.compile(f"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f{_NO_CHARACTERS}]")
_LEAST_SHARE = 0.9
_SURE = re.compile(r"Ã[\u00a1-\u00bf]")
"""Where a text has one or two runs, one must be longer than a pair or a pair that no language writes: `MANHÔ` has one."""


@dataclass(frozen=True)
class Repair(Stage):
    """Repair texts.

    Signals: `repaired`, bits of what was changed, and `num_bytes` of the text as UTF-8; null where there is no text.
    """

    name: ClassVar[str] = "repair"
    version: ClassVar[int] = 1

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        texts = batch.column("text")
        found = faults(texts)
        changed = np.zeros(len(texts), np.uint8)
        better: list[str] = []
        for row in np.flatnonzero(found):
            text = texts[int(row)].as_py()
            new, changed[row] = repair(text)
            if changed[row]:
                better.append(new)
        if better:
            texts = pc.replace_with_mask(texts, pa.array(changed != 0), pa.array(better, pa.string()))
        empty = np.asarray(batch.column("text").is_null())
        repaired = pa.array(changed, mask=empty)
        return add(batch, {"text": texts, "repaired": repaired, "num_bytes": pc.binary_length(texts)})


def faults(texts: pa.Array) -> np.ndarray:
    """Bits of what may need repair in each text, as `repair_kernel` names them; uint8 [n]."""
    from gyral.curate.text.repair_kernel import find_faults, tables

    data, offsets = utf8(texts)
    found = np.zeros(len(texts), np.uint8)
    find_faults(data, offsets, *tables(), found)
    return found


def repair(text: str) -> tuple[str, int]:
    """A text as it was meant, and the bits of what was changed."""
    changed = 0
    for bit, step in (
        (MOJIBAKE, _reread),
        (LINE_END, _lines),
        (CONTROL, _controls),
        (INVISIBLE, _invisibles),
        (NORMAL, _composed),
    ):
        new = step(text)
        if new != text:
            text, changed = new, changed | bit
    return text, changed


def _reread(text: str) -> str:
    for _ in range(2):
        new = next((new for charset in ("cp1252", "cp1251") if (new := _read_as_utf8(text, charset)) is not None), None)
        if new is None:
            return text
        text = new
    return text


def _read_as_utf8(text: str, charset: str) -> str | None:
    """The text with its runs read again; None where it was not read as this charset."""
    good = bad = 0
    sure = False

    def again(match: re.Match[str]) -> str:
        nonlocal good, bad, sure
        run = match.group()
        try:
            new = _bytes(run, charset).decode()
        except (UnicodeDecodeError, KeyError):
            bad += 1
            return run
        good += 1
        sure = sure or len(run) > 2 or bool(_SURE.search(run))
        return new

    new = _RUN.sub(again, text)
    enough = good >= 1 and sure if good + bad < 3 else good >= 2
    return new if enough and good >= _LEAST_SHARE * (good + bad) else None


def _bytes(run: str, charset: str) -> bytes:
    """A run back in the bytes it was read from; what the charset has no character for was read as Latin-1."""
    table = _TABLES.setdefault(charset, {})
    if not table:
        for byte in range(0x80, 0x100):
            table[bytes([byte]).decode(charset, "ignore") or chr(byte)] = byte
    return bytes([table[character] for character in run])


_TABLES: dict[str, dict[str, int]] = {}


def _lines(text: str) -> str:
    return re.sub("\r\n?|[\x85\u2028\u2029]", "\n", text)


def _controls(text: str) -> str:
    return _CONTROLS.sub("", text)


def _invisibles(text: str) -> str:
    return re.sub("[\u00ad\u200b\u2060\ufeff]", "", text)


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)

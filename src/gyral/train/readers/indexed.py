"""Shards with an `index.json`: MDS, which mosaicml-streaming writes, and the chunks of litdata.

Both hold `uint32 number, uint32 offsets[number + 1], rows`; a row holds the sizes of its fields where they vary, then the
fields. What differs is where the types are told and how a field is encoded. Pickled fields are refused.

Source: mosaicml-streaming 0.13, `base/format/mds`; litdata 0.2.76, `streaming/{writer,serializers,item_loader}.py`.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from gyral.errors import InputError
from gyral.train.readers import fields
from gyral.train.readers.rows import Column, Files, checked, chosen, damaged, digest_of, gathered

UNPACKED = 2
"""Compressed shards that are kept unpacked."""


class Shard(NamedTuple):
    """One file of rows.

    Attributes
    ----------
    packed, size, sha1 : name of the compressed file, bytes when unpacked, and digest of what is unpacked; empty: as it is.
    """

    file: str
    rows: int
    size: int
    packed: str = ""
    codec: str = ""
    sha1: str = ""


class Indexed:
    """Rows of shards that an index names.

    Parameters
    ----------
    decoders : a function for each column: bytes → value.
    sizes : bytes of a field, where all rows have the same and it is not written; else None.
    """

    def __init__(
        self,
        folder: Path,
        shards: Sequence[Shard],
        columns: Sequence[str],
        decoders: Sequence[Callable[[bytes], Any]],
        sizes: Sequence[int | None],
        digest: str,
    ) -> None:
        self.folder, self.columns, self.digest = folder, tuple(columns), digest
        self._shards, self._decoders, self._sizes = shards, decoders, sizes
        self._ends = np.cumsum([0, *(shard.rows for shard in shards)])
        self._files = Files(folder)
        self._unpacked: OrderedDict[str, bytes] = OrderedDict()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, indices: np.ndarray, columns: Sequence[str] | None = None) -> dict[str, Column]:
        """As `Rows.read`."""
        names = chosen(columns, self.columns, self.folder)
        found = checked(indices, len(self), self.folder)
        owners = np.searchsorted(self._ends, found, side="right") - 1
        rows = [self._row(int(owner), int(index), names) for owner, index in zip(owners, found, strict=True)]
        return gathered(rows, names)

    def _row(self, owner: int, index: int, names: Sequence[str]) -> dict[str, Any]:
        shard, at = self._shards[owner], index - int(self._ends[owner])
        number, *_ = np.frombuffer(self._bytes(shard, 0, 4), "<u4").tolist()
        begin, end = np.frombuffer(self._bytes(shard, 4 * (1 + at), 8), "<u4").tolist()
        if number != shard.rows or begin > end:
            raise damaged(self.folder / shard.file, f"it says that it has {number:,} rows, the index {shard.rows:,}")
        body = self._bytes(shard, begin, end - begin)
        varying = sum(size is None for size in self._sizes)
        told = iter(np.frombuffer(body[: 4 * varying], "<u4").tolist())
        place, row = 4 * varying, {}
        for name, decode, size in zip(self.columns, self._decoders, self._sizes, strict=True):
            length = next(told) if size is None else size
            if name in names:
                try:
                    if place + length > len(body):
                        raise ValueError(f"it ends at {place + length} of {len(body)} bytes")
                    row[name] = decode(body[place : place + length])
                except (ValueError, IndexError) as error:
                    raise damaged(self.folder / shard.file, f"`{name}` of row {index:,}: {error}") from None
            place += length
        return row

    def _bytes(self, shard: Shard, offset: int, size: int) -> bytes:
        if not shard.packed:
            return self._files.read(shard.file, offset, size)
        if shard.file not in self._unpacked:
            self._unpacked[shard.file] = unpacked(self.folder, shard)
            if len(self._unpacked) > UNPACKED:
                self._unpacked.popitem(last=False)
        self._unpacked.move_to_end(shard.file)
        return self._unpacked[shard.file][offset : offset + size]


def unpacked(folder: Path, shard: Shard) -> bytes:
    """A compressed shard as it was before, compared with its digest."""
    path = folder / shard.packed
    try:
        body: bytes = pa.decompress(path.read_bytes(), decompressed_size=shard.size, codec=shard.codec, asbytes=True)
    except (OSError, pa.ArrowException) as error:
        raise damaged(path, str(error)) from None
    if shard.sha1 and hashlib.sha1(body, usedforsecurity=False).hexdigest() != shard.sha1:
        raise damaged(path, "its bytes are not those that were written")
    return body


def open_indexed(folder: Path) -> Indexed:
    """Open a folder by its `index.json`.

    Raises
    ------
    InputError : it is of neither format, or of a kind that is not read.
    """
    path = folder / "index.json"
    text = path.read_bytes()
    try:
        index = msgspec.json.decode(text, type=dict[str, Any])
        if "shards" in index:
            return _mds(folder, index["shards"], digest_of([text]))
        if "chunks" in index:
            return _litdata(folder, index["chunks"], index["config"], digest_of([text]))
        raise ValueError("it names neither shards nor chunks")
    except (ValueError, KeyError, TypeError, IndexError) as error:  # msgspec's errors are ValueErrors
        hint = "made by mosaicml-streaming or litdata?"
        raise InputError("the index of the shards cannot be used", why=str(error), where=str(path), hint=hint) from None


def _mds(folder: Path, shards: Sequence[dict[str, Any]], digest: str) -> Indexed:
    found = []
    for each in shards:
        if each["format"] != "mds" or each["version"] != 2:
            raise _refused(folder, f"it is of format {each['format']} version {each['version']}", "write it as MDS")
        raw, packed = each["raw_data"], each["zip_data"]
        codec = str(each["compression"] or "").partition(":")[0]
        is_packed = packed is not None and not (folder / raw["basename"]).exists()
        if is_packed and codec not in ("zstd", "gz", "br"):
            raise _refused(folder, f"it is compressed by {codec}", "zstd is read")
        codec = {"gz": "gzip", "br": "brotli"}.get(codec, codec)
        name = packed["basename"] if is_packed else ""
        sha1 = (raw.get("hashes") or {}).get("sha1", "") if is_packed else ""
        found.append(Shard(raw["basename"], each["samples"], raw["bytes"], name, codec, sha1))
    first = shards[0] if shards else {"column_names": [], "column_encodings": [], "column_sizes": []}
    decoders = [_known(folder, fields.mds(encoding), name, encoding) for name, encoding in _columns(first)]
    return Indexed(folder, found, first["column_names"], decoders, first["column_sizes"], digest)


def _columns(shard: dict[str, Any]) -> list[tuple[str, str]]:
    return list(zip(shard["column_names"], shard["column_encodings"], strict=True))


def _litdata(folder: Path, chunks: Sequence[dict[str, Any]], config: dict[str, Any], digest: str) -> Indexed:
    if config.get("compression") or config.get("encryption") or config.get("ipc_compression"):
        raise _refused(folder, "its chunks are compressed or encrypted", "make them without")
    if config.get("item_loader", "PyTreeLoader") != "PyTreeLoader":
        raise _refused(folder, f"it is made for {config['item_loader']}", "curate writes tokens of its own")
    spec = msgspec.json.decode(config["data_spec"])[1]
    children = spec["children_spec"]
    if any(each["children_spec"] for each in children):
        raise _refused(folder, "its rows hold dicts in dicts", "write flat rows")
    is_dict = spec["type"] == "builtins.dict"
    names = msgspec.json.decode(spec["context"]) if is_dict else [str(number) for number in range(len(children) or 1)]
    formats = config["data_format"]
    decoders = [_known(folder, fields.litdata(kind), name, kind) for name, kind in zip(names, formats, strict=True)]
    shards = [Shard(each["filename"], each["chunk_size"], each["chunk_bytes"]) for each in chunks]
    return Indexed(folder, shards, names, decoders, [None] * len(names), digest)


def _known(folder: Path, decode: Callable[[bytes], Any] | None, name: str, kind: str) -> Callable[[bytes], Any]:
    if decode is None:
        raise _refused(folder, f"`{name}` is stored as {kind}", "store texts, bytes, numbers or arrays")
    return decode


def _refused(folder: Path, why: str, hint: str) -> InputError:
    return InputError("these shards are of a kind that is not read", why=why, where=str(folder / "index.json"), hint=hint)

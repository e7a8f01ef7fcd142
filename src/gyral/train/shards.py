"""The file of one rank: chunks of tensors, each with its place in the whole, in the form that torch's DCP calls safetensors.

The header is JSON: type, shape and place in the file of each chunk, and under `DCP_SHARDING_INFO` its offsets in the tensor. So
`safetensors` opens it, and `torch.distributed.checkpoint` with its `HuggingFaceStorageReader` reads a folder of them.

Source: https://huggingface.co/docs/safetensors (format); torch 2.13, `distributed/checkpoint/hf_storage.py`.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import torch
from torch import Tensor

from gyral.train.layout import Chunk
from gyral.train.saved import BLOCK_BYTES, FileMark

if TYPE_CHECKING:
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

SHARDING = "DCP_SHARDING_INFO"
DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


def header_of(chunks: Sequence[Chunk]) -> bytes:
    """Header of a file that holds these chunks one after the other."""
    entries: dict[str, Any] = {}
    start = 0
    offsets: dict[str, Any] = {}
    for each in chunks:
        end = start + each.values.nbytes
        entries[each.name] = {"dtype": DTYPES[each.values.dtype], "shape": list(each.shape), "data_offsets": [start, end]}
        offsets[each.name] = {"saved_offsets": list(each.offsets)}
        start = end
    told = {"format": "pt", "DCP_VERSION": "1.0", SHARDING: msgspec.json.encode(offsets).decode()}
    text = msgspec.json.encode({"__metadata__": told, **entries})
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def written(path: Path, parts: Sequence[bytes | memoryview]) -> FileMark:
    """Write a file to the disk; its size and digest."""
    digest, size = hashlib.sha256(), 0
    with open(path, "wb", buffering=0) as file:
        for part in parts:
            view = memoryview(part).cast("B")
            for start in range(0, len(view), BLOCK_BYTES):
                block = view[start : start + BLOCK_BYTES]
                digest.update(block)
                while len(block):
                    block = block[file.write(block) :]
            size += len(view)
        os.fsync(file.fileno())
    return FileMark(size, digest.hexdigest())


def shapes_in(metadata: Metadata) -> dict[str, TensorStorageMetadata]:
    """What the tensors of a checkpoint are like, by name."""
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    held = metadata.state_dict_metadata.items()
    return {name: each for name, each in held if isinstance(each, TensorStorageMetadata)}


def reader_of(folder: Path) -> tuple[HuggingFaceStorageReader, Metadata]:
    """DCP's reader of a folder, and what the headers of its files say."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    reader = HuggingFaceStorageReader(str(folder))
    return reader, reader.read_metadata()


def read_into(reader: HuggingFaceStorageReader, metadata: Metadata, wanted: dict[str, Tensor]) -> None:
    """Fill tensors, plain or DTensors, from the chunks that DCP's planner finds for them; no rank asks another."""
    from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner

    reader.set_up_storage_reader(metadata, True)
    planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    planner.set_up_planner(wanted, metadata, True)
    plan = planner.create_local_plan()
    reader.read_data(planner.finish_plan(plan), planner).wait()

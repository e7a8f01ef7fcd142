"""Make `fixtures/`: seven rows in each format, written by the library that the format comes from.

    python write_fixtures.py wds|mds|mds-zstd|lit FOLDER

Run in an environment with numpy and torch to which `pip install --no-deps` of webdataset 1.0.2, mosaicml-streaming 0.13.0 (and
zstd) or litdata 0.2.76 was done. Both of the latter import far more than their writers use (torchvision, cloud clients), so
what is missing is replaced by empty modules; the writers themselves are theirs.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import struct
import sys
import types
import zlib
from pathlib import Path

import numpy as np

ROWS = 7
MISSING = (
    "Brotli", "PIL", "av", "azure", "boto3", "botocore", "brotli", "catalogue", "cramjam", "cryptography", "fitz",
    "fsspec", "google", "huggingface_hub", "lightning", "lightning_sdk", "lightning_utilities", "matplotlib",
    "networkx", "nibabel", "obstore", "oci", "pandas", "paramiko", "psutil", "pymupdf", "pypdf", "requests", "snappy",
    "soundfile", "tifffile", "torch_geometric", "torchaudio", "torchcodec", "torchvision", "transformers", "trimesh",
    "xxhash", "zstandard",
)  # fmt: skip


class Anything(type):
    """A class that has whatever it is asked for."""

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything(name, (), {"__init__": lambda *_, **__: None})


class Missing(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Stands for modules that are imported and not used."""

    def find_spec(self, name, path, target=None):
        if name.split(".")[0] not in MISSING:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        class Empty(types.ModuleType):
            def __getattr__(self, name):
                if name.startswith("__"):
                    raise AttributeError(name)
                return Anything(name, (), {"__init__": lambda *_, **__: None, "__class_getitem__": classmethod(lambda c, _: c)})

        made = Empty(spec.name)
        made.__path__, made.__file__, made.__version__ = [], "", "9.9.9"
        return made

    def exec_module(self, module):
        pass


def text(number):
    return f"Page {number}: what goes out comes back." + " Again." * number


def png(number):
    """A small picture whose colors follow from its number."""
    side = 2 + number % 3
    lines = [bytes((number * 37 + x * 11 + y * 5) % 256 for x in range(side) for _ in range(3)) for y in range(side)]

    def part(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = part(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + head
        + part(b"IDAT", zlib.compress(b"".join(b"\0" + line for line in lines)))
        + part(b"IEND", b"")
    )


def row(number):
    tokens = np.arange(number + 1, dtype=np.uint16) * 300
    return {"text": text(number), "image": png(number), "label": number - 3, "weight": number / 4, "tokens": tokens}


def write_wds(out):
    import webdataset

    with webdataset.ShardWriter(f"{out}/pairs-%04d.tar", maxcount=4, verbose=0) as writer:
        for number in range(ROWS):
            named = {"__key__": f"a.b/sample{number:03d}", "png": png(number), "txt": text(number)}
            writer.write({**named, "cls": number, "json": {"n": number}})


def write_mds(out, compression=None):
    sys.meta_path.append(Missing())
    for name in ("streaming", "streaming.base"):  # without what their `__init__` imports
        package = types.ModuleType(name)
        found = [Path(place, *name.split(".")) for place in sys.path]
        package.__path__ = [str(path) for path in found if path.is_dir()]
        sys.modules[name] = package
    from streaming.base.format.mds.writer import MDSWriter

    columns = {"text": "str", "image": "bytes", "label": "int", "weight": "float32", "tokens": "ndarray:uint16"}
    columns |= {"pair": "ndarray:float32:2", "free": "ndarray"}
    with MDSWriter(out=str(out), columns=columns, size_limit=1500, hashes=["sha1"], compression=compression) as writer:
        for number in range(ROWS):
            own = row(number)
            pair = np.array([number, -number], np.float32)
            writer.write({**own, "weight": np.float32(own["weight"]), "pair": pair, "free": np.full((2, number + 1), number)})


def write_lit(out):
    sys.meta_path.append(Missing())
    import torch
    from litdata.streaming.writer import BinaryWriter

    writer = BinaryWriter(str(out), chunk_size=3)
    for name in ("video", "audio", "image", "nifti", "mesh", "pdf", "graph", "tifffile", "file", "pil", "jpeg", "jpeg_array"):
        writer._serializers.pop(name)  # they look whether a value is of a class of a library that is not there
    for number in range(ROWS):
        pair = torch.tensor([[number, -number]], dtype=torch.float32)
        writer[number] = {**row(number), "pair": pair, "free": np.full((2, number + 1), number)}
    writer.done()
    writer.merge()


if __name__ == "__main__":
    kind, place = sys.argv[1], Path(sys.argv[2])
    place.mkdir(parents=True)
    if kind == "wds":
        write_wds(place)
    elif kind == "lit":
        write_lit(place)
    else:
        write_mds(place, kind.partition("-")[2] or None)

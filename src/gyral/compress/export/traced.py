"""A model as one graph of tensor operations: `torch` (a program that needs torch and nothing of this project), `onnx`.

Both are made by `torch.export`, with batch and length free. Batches of sizes that the trace did not see are compared: `onnx` by
onnxruntime, `torch` in a process of its own that imports torch alone. ONNX is of operator set 20, which devices' runtimes of
2024 and later have; a model above 2 GB keeps its weights in a second file, as the format asks.
"""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gyral.compress.export.base import Reading, Source, versions_of
from gyral.errors import InputError, MissingExtra

if TYPE_CHECKING:
    from gyral.model.programs import Program, Sample

PROGRAM, GRAPH = "program.pt2", "model.onnx"
OPSET = 20
_TIMEOUT_S = 600
_ALONE = """
import sys, numpy, torch
program = torch.export.load(sys.argv[1]).module()
given = numpy.load(sys.argv[2])
with torch.no_grad():
    found = program(*(torch.from_numpy(given[str(at)]) for at in range(len(given.files))))
numpy.save(sys.argv[3], found.float().numpy())
"""


def traced(program: Program) -> Any:
    """A program of tensor operations whose free dims may be any size up to their limits.

    Raises
    ------
    InputError : the net decides something by its numbers, which no graph can hold.
    """
    import torch

    dims = {name: torch.export.Dim(name, min=1, max=most) for name, most in program.limits.items()}
    free = tuple({at: dims[dim] for at, dim in enumerate(port.dims) if isinstance(dim, str)} for port in program.inputs)
    given = tuple(torch.from_numpy(each) for each in program.samples[1])
    try:
        with torch.no_grad(), _quiet():
            return torch.export.export(program.module, given, dynamic_shapes=free)
    except (RuntimeError, ValueError, TypeError) as error:
        raise InputError("the net cannot be written as a graph", why=str(error).strip().splitlines()[0][:300]) from None


class TorchProgram:
    """The format `torch`: `program.pt2` for `torch.export.load`, and from there for ExecuTorch or AOTInductor."""

    tolerance = 1e-5

    def write(self, source: Source, folder: Path) -> list[str]:
        import torch

        with _quiet():
            torch.export.save(traced(source.program), folder / PROGRAM)
        return []

    def open(self, source: Source, folder: Path) -> Reading:
        """By another process, which knows nothing of this project."""
        import torch

        def run(sample: Sample) -> np.ndarray:
            with tempfile.TemporaryDirectory() as place:
                given, found = Path(place, "given.npz"), Path(place, "found.npy")
                np.savez(given, **{str(at): each for at, each in enumerate(sample)})
                command = [sys.executable, "-I", "-W", "ignore", "-c", _ALONE, str(folder / PROGRAM), str(given), str(found)]
                done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
                if done.returncode:
                    why = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
                    raise InputError("the program does not run alone", why=why, where=str(folder / PROGRAM))
                answer: np.ndarray = np.load(found)
            return answer

        return Reading(f"torch {torch.__version__} in a process of its own", run)

    def versions(self) -> Mapping[str, str]:
        return versions_of("torch")


class Onnx:
    """The format `onnx`: `model.onnx`."""

    tolerance = 1e-4

    def write(self, source: Source, folder: Path) -> list[str]:
        import torch

        for module in ("onnx", "onnxscript", "onnxruntime"):
            _needs(module)
        program = source.program
        graph = traced(program)
        names = [port.name for port in program.inputs]
        with _quiet(), torch.no_grad():
            made = torch.onnx.export(
                graph, input_names=names, output_names=[program.output.name], opset_version=OPSET, dynamo=True, verbose=False
            )
            if made is None:
                raise InputError("the net cannot be written as a graph", why="torch made none")
            made.save(folder / GRAPH)
        return []

    def open(self, source: Source, folder: Path) -> Reading:
        """By onnxruntime, on the processor."""
        import onnxruntime

        session = onnxruntime.InferenceSession(str(folder / GRAPH), providers=["CPUExecutionProvider"])
        names = [each.name for each in session.get_inputs()]

        def run(sample: Sample) -> np.ndarray:
            found: np.ndarray = session.run(None, dict(zip(names, sample, strict=True)))[0]
            return found

        return Reading(f"onnxruntime {onnxruntime.__version__}", run)

    def versions(self) -> Mapping[str, str]:
        return versions_of("torch", "onnx", "onnxscript", "onnxruntime")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what exporters say of themselves: neither of it is the user's to mend."""
    said = logging.getLogger("torch.onnx")
    level = said.level
    said.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        said.setLevel(level)


def _needs(module: str) -> None:
    from importlib.util import find_spec

    if find_spec(module) is None:
        raise MissingExtra(module, "export", "writing ONNX")


TORCH, ONNX = TorchProgram(), Onnx()

"""A model as one graph of tensor operations: `torch` (a program that needs torch and nothing of this project), `onnx`.

Both are made by `torch.export`, with batch and length free. Batches of sizes that the trace did not see are compared: `onnx` by
onnxruntime, `torch` in a process of its own that imports torch alone. ONNX is of operator set 20, which devices' runtimes of
2024 and later have; a model above 2 GB keeps its weights in a second file, as the format asks.
"""

from __future__ import annotations

import contextlib
import json
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
    from gyral.model.programs import Program

PROGRAM, GRAPH = "program.pt2", "model.onnx"
OPSET = 20
_TIMEOUT_S = 600
_ALONE = """
import json, sys, numpy, torch
program = torch.export.load(sys.argv[1]).module()
given = numpy.load(sys.argv[2])
found = []
with torch.no_grad():
    for names in json.loads(sys.argv[4]):
        found.append(program(*(torch.from_numpy(given[name]) for name in names)).float().numpy())
numpy.savez(sys.argv[3], *found)
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
            found = torch.export.export(program.module, given, dynamic_shapes=free)
    except (RuntimeError, ValueError, TypeError) as error:
        raise InputError("the net cannot be written as a graph", why=str(error).strip().splitlines()[0][:300]) from None
    found.example_inputs = None  # text and pictures of somebody, which would be saved with the program
    for node in found.graph.nodes:
        node.meta.pop("stack_trace", None)  # and so would be folders of this machine
    return found


class TorchProgram:
    """The format `torch`: `program.pt2` for `torch.export.load`, and from there for ExecuTorch or AOTInductor."""

    tolerance = 1e-5

    def write(self, source: Source, folder: Path) -> list[str]:
        import torch

        with _quiet():
            torch.export.save(traced(source.program), folder / PROGRAM)
        return []

    def read(self, program: Program, folder: Path) -> Reading:
        """By another process, which knows nothing of this project."""
        import torch

        names = [[f"{at}_{number}" for number in range(len(each))] for at, each in enumerate(program.samples)]
        arrays: dict[str, Any] = {}
        for row, sample in zip(names, program.samples, strict=True):
            arrays.update(zip(row, sample, strict=True))
        with tempfile.TemporaryDirectory() as place:
            given, found = Path(place, "given.npz"), Path(place, "found.npz")
            np.savez(given, **arrays)
            words = [str(folder / PROGRAM), str(given), str(found), json.dumps(names)]
            command = [sys.executable, "-I", "-W", "ignore", "-c", _ALONE, *words]
            done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
            if done.returncode:
                why = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
                raise InputError("the program does not run alone", why=why, where=str(folder / PROGRAM))
            with np.load(found) as told:
                answers = [told[f"arr_{at}"] for at in range(len(names))]
        return Reading(f"torch {torch.__version__} in a process of its own", answers)

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
            _forget(made.model)
            made.save(folder / GRAPH)
        return []

    def read(self, program: Program, folder: Path) -> Reading:
        """By onnxruntime, on the processor."""
        import onnxruntime

        session = onnxruntime.InferenceSession(str(folder / GRAPH), providers=["CPUExecutionProvider"])
        names = [port.name for port in program.inputs]
        answers = [session.run(None, dict(zip(names, sample, strict=True)))[0] for sample in program.samples]
        return Reading(f"onnxruntime {onnxruntime.__version__}", answers)

    def versions(self) -> Mapping[str, str]:
        return versions_of("torch", "onnx", "onnxscript", "onnxruntime")


def _forget(made: Any) -> None:
    """Take out what the exporter keeps of each node: lines of source with the folders of this machine."""
    for node in made.graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for each in (made, made.graph, *made.graph.inputs):
        each.metadata_props.clear()


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

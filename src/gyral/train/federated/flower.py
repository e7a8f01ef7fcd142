"""Devices behind Flower: the same learning as a `NumPyClient`, for who runs real devices or Flower's own strategies.

One client stands for some devices: their mean goes back with their number as its weight, so Flower's FedAvg over clients is the
mean over devices, whichever client has them. Parameters are the model's, in order, so that strategies which look at layers can.

flwr 1.42 takes protobuf < 7, starlette < 1.4 and packaging < 26, our other tools are past these; so it is no extra, but goes
into an environment of its own: `pip install 'gyral[train,torch]' flwr`, without our constraints. `benchmarks/train/flower.py`
runs a real server and two clients there and compares the weights with ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from gyral.config.training import Federated
from gyral.errors import UsageError
from gyral.model.tasks.history import NextBasket
from gyral.train.federated import update
from gyral.train.federated.local import Layout, learn


class Devices:
    """Some devices that answer together.

    Parameters
    ----------
    model : gives the form.
    examples : of the task, one a device, int64 [C].
    """

    def __init__(self, task: NextBasket, model: nn.Module, told: Federated, examples: np.ndarray) -> None:
        self._task, self._model, self._told, self._examples = task, model, told, examples
        self._layout = Layout(model)

    def parameters(self) -> list[np.ndarray]:
        """The model's own, by which a server may begin."""
        return [param.detach().numpy().copy() for param in self._model.parameters()]

    def answer(self, parameters: Sequence[np.ndarray]) -> tuple[list[np.ndarray], int, dict[str, float]]:
        """Where the server's model has moved to on average, of how many devices, and their loss before."""
        common_P = torch.from_numpy(np.concatenate([np.asarray(each, np.float32).ravel() for each in parameters]))
        told = self._told
        learned = learn(self._task, self._model, self._layout, common_P, self._examples, told.local_steps, told.local_rate)
        moved_CP, _ = update.clipped(learned.moved, told.clip)
        named = self._layout.named((common_P.double() + moved_CP.double().mean(0)).float())
        return [values.numpy() for values in named.values()], len(self._examples), {"loss": float(learned.loss.mean())}


def client_of(devices: Devices) -> Any:
    """A `flwr.client.NumPyClient`; `.to_client()` of it is what Flower starts.

    Raises
    ------
    UsageError : there is no `flwr`.
    """
    try:
        from flwr.client import NumPyClient
    except ImportError:
        hint = "in an environment of its own: pip install 'gyral[train,torch]' flwr"
        why = "it takes older releases than our pins"
        raise UsageError("a client of Flower needs the package `flwr`, which is not installed", why=why, hint=hint) from None

    class Client(NumPyClient):  # type: ignore[misc]
        """Flower's side of `Devices`."""

        def get_parameters(self, config: dict[str, Any]) -> list[np.ndarray]:
            return devices.parameters()

        def fit(self, parameters: list[np.ndarray], config: dict[str, Any]) -> tuple[list[np.ndarray], int, dict[str, float]]:
            return devices.answer(parameters)

        def evaluate(self, parameters: list[np.ndarray], config: dict[str, Any]) -> tuple[float, int, dict[str, float]]:
            _, count, told = devices.answer(parameters)
            return told["loss"], count, told

    return Client()

"""What a trainer hands over to be published."""

from __future__ import annotations

from typing import Any, NamedTuple

from gyral.model.card import Weights
from gyral.model.inputs import Inputs


class Fitted(NamedTuple):
    """A trained model.

    Attributes
    ----------
    inputs : the vocabulary of a recommender; None for families that have none.
    candidates : one entry each with its metrics; exactly one is `chosen`.
    training : `steps`, `loss` (one a step), `metrics` and `ranks`; empty where nothing is learned by steps.
    metric : of the candidates, the one that the card compares by; empty: the family's.
    files : further files of the model's folder, such as `tokenizer.json`.
    """

    weights: Weights
    inputs: Inputs | None
    candidates: list[dict[str, Any]]
    measured_on: str
    training: dict[str, Any] = {}
    files: dict[str, bytes] = {}
    metric: str = ""

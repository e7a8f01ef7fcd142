"""Training that goes on from the weights of a published model instead of random ones."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from gyral.errors import InputError
from gyral.model import card as cards
from gyral.model.card import read_weights


def begin_from(model: nn.Module, root: Path, start: str) -> None:
    """Give a model the weights of a published one; arrays that are none of its weights (vectors of pictures) are passed over.

    Raises
    ------
    InputError : a weight is missing or has another shape.
    """
    arrays = read_weights(cards.find(root, start)).arrays
    given = {name: torch.from_numpy(arrays[name]) for name in model.state_dict() if name in arrays}
    why = ""
    try:
        missing, _ = model.load_state_dict(given, strict=False)
        of_its_own = {name for name, _ in model.named_parameters()}  # of tied ones a model keeps one
        why = next((f"it has no `{name}`" for name in missing if name in of_its_own), "")
    except RuntimeError as error:
        why = str(error).strip().splitlines()[-1].strip()
    if why:
        hint = "give it the same sizes, or begin from nothing: `--set train.start=''`"
        raise InputError(f"`{start}` is another kind of model", why=why, where="train.start", hint=hint)

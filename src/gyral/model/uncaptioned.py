"""What vectors of pictures tell that nobody captioned: whether a linear probe names them, and how many directions they use.

Labels are what the data says of itself, or there are none: the folder a picture lies in (`shirt/0001.png`), where no concept
lies in two; else its caption, where few captions stand for many pictures. Without labels two figures say whether vectors are
still apart: `effective_rank`, how many directions they use (exp of the entropy of singular values; over the paper's runs it
went with a probe's accuracy), and `feature_spread`, 1 where they fill all directions alike, 0 where they are one point.

Shapes: N pictures, E width.

Source: Garrido et al. 2023 (RankMe), equation 1, here with the mean taken off: a vector that all share is no direction; Chen
and He 2021 (SimSiam), section 4.1 (spread: deviation times √E).
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from gyral.model.embedder import Embedder
from gyral.model.pictures import Pictures
from gyral.model.probe import ridge

MOST_PROBED = 4_096
"""Pictures that a probe is fitted on, and as many that it is asked about, evenly of all."""
FEW = 8
"""Pictures that a label must have on average, or it is a name and no class."""


def labels_of(*parts: Pictures) -> list[np.ndarray] | None:
    """Classes of the pictures of each part, int64 [N], numbered alike in all; None where the data has none.

    What is trained on comes first: a class that it lacks makes the data have none.
    """
    found = _by_folder(parts) or _by_caption(parts)
    return _numbered(found) if found is not None else None


def captions_are_classes(*parts: Pictures) -> bool:
    """Whether each picture has one caption, and few captions stand for many pictures: `shirt`, and no `a shirt on a line`."""
    found = _by_caption(parts)
    return found is not None and _numbered(found) is not None


def _numbered(found: list[list[str]]) -> list[np.ndarray] | None:
    names = Counter(name for labels in found for name in labels)
    is_one_lacking = len({*found[0]}) < len(names) or not all(found)
    if len(names) < 2 or sum(names.values()) < FEW * len(names) or is_one_lacking:
        return None
    number = {name: at for at, name in enumerate(sorted(names))}
    return [np.array([number[name] for name in labels], np.int64) for labels in found]


def probed(embedder: Embedder, trained: Pictures, held_out: Pictures) -> dict[str, float]:
    """Accuracy of a linear probe on pictures kept aside, and of naming the commonest class; nothing where there are no classes.

    The probe is ridge regression on class token and mean of the patches, fitted on pictures that were trained on.
    """
    labels = labels_of(trained, held_out)
    if labels is None:
        return {}
    # in no order: ridge chooses its penalty on the last tenth
    known = np.random.default_rng(0).permutation(_evenly(len(labels[0])))
    asked = _evenly(len(labels[1]))
    probe = ridge(_pooled(embedder, trained.pixels[known]), labels[0][known])
    commonest = np.bincount(labels[0]).argmax()
    return {
        "probe_accuracy": probe.accuracy(_pooled(embedder, held_out.pixels[asked]), labels[1][asked]),
        "probe_chance": float(np.mean(labels[1][asked] == commonest)),
    }


def spread(vectors_NE: np.ndarray) -> dict[str, float]:
    """How many directions vectors of length one use, and how alike; nothing of fewer than two."""
    if len(vectors_NE) < 2:
        return {}
    centred = vectors_NE.astype(np.float64) - vectors_NE.mean(axis=0, dtype=np.float64)
    values = np.linalg.svd(centred, compute_uv=False)
    share = values / max(values.sum(), 1e-30)
    rank = float(np.exp(-(share[share > 0] * np.log(share[share > 0])).sum())) if values.sum() > 1e-9 else 0.0
    return {"effective_rank": rank, "feature_spread": float(centred.std(axis=0).mean() * np.sqrt(vectors_NE.shape[1]))}


def _by_folder(parts: tuple[Pictures, ...]) -> list[list[str]] | None:
    found = [[name.rpartition("/")[0].rpartition("/")[2] for name in part.ids] for part in parts]
    for part, labels in zip(parts, found, strict=True):
        folder: dict[int, str] = {}
        for concept, label in zip(part.concept.tolist(), labels, strict=True):
            if folder.setdefault(concept, label) != label:
                return None
    return found if len({label for labels in found for label in labels}) > 1 else None


def _by_caption(parts: tuple[Pictures, ...]) -> list[list[str]] | None:
    found = []
    for part in parts:
        captions: dict[int, str] = {}
        for concept, text in zip(part.caption_concept.tolist(), part.texts, strict=True):
            if captions.setdefault(concept, text) != text:
                return None
        if len(captions) < part.num_concepts:
            return None
        found.append([captions[concept] for concept in part.concept.tolist()])
    return found


def _pooled(embedder: Embedder, pixels_NSSC: np.ndarray) -> np.ndarray:
    tokens = (embedder.tokens(pixels_NSSC[at : at + 256]) for at in range(0, len(pixels_NSSC), 256))
    return np.concatenate([np.concatenate([each[:, 0], each[:, 1:].mean(axis=1)], axis=1) for each in tokens])


def _evenly(count: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, MOST_PROBED)).astype(np.int64))

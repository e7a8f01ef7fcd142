"""Small first, and a larger one when the small one is unsure: the threshold comes from held-out data, with a guarantee.

What may go wrong is an answer of the small variant that is kept and wrong, where the large one would have been right: a regret.
Thresholds are tried from asking the large one always downwards, and the last whose regret is shown to be under the limit, by an
exact binomial test at `confidence`, is taken: testing in a fixed order needs no correction. So with 500 held-out examples and a
limit of .01 at least 299 kept answers without a single regret are needed before anything is kept at 95 %; with too few examples
the cascade asks the large one always, and says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np


class Cascade(msgspec.Struct, frozen=True, omit_defaults=True):
    """When to ask the large variant too: below `threshold`; as measured on `examples`, for servers, pages and cards.

    Attributes
    ----------
    kept, accuracy, regret : shares of the answers: of the small one, right, and kept and wrong where the large one is right.
    small, large : what either gets right alone.
    path, given : of the requests, and what their answers say of themselves (`Told.props`); of others nothing was measured.
    """

    threshold: float = math.inf
    kept: float = 0.0
    accuracy: float = 0.0
    regret: float = 0.0
    examples: int = 0
    why: str = ""
    small: float = 0.0
    large: float = 0.0
    path: str = ""
    given: dict[str, Any] = {}

    @property
    def quality(self) -> float:
        """What is left of the large one's accuracy, at most 1."""
        return min(1.0, self.accuracy / self.large) if self.large > 0 else 1.0

    def judges(self, props: Mapping[str, Any]) -> bool:
        """Whether an answer is of the kind that was measured."""
        return all(props.get(name) == value for name, value in self.given.items())

    def escalates(self, confidence: float) -> bool:
        """Whether an answer with this confidence is asked again of the large variant; one that is no number is."""
        return not confidence >= self.threshold

    def seconds(self, small_s: float, large_s: float) -> float:
        """Expected seconds of an answer."""
        return small_s + (1 - self.kept) * large_s

    def pays(self, small_s: float, large_s: float) -> bool:
        """Whether it is faster than always asking the large one."""
        return self.seconds(small_s, large_s) < large_s


def calibrate(
    confidence: np.ndarray,
    small_is_right: np.ndarray,
    large_is_right: np.ndarray,
    *,
    max_regret: float = 0.01,
    sure: float = 0.95,
    steps: int = 64,
) -> Cascade:
    """Choose the threshold on held-out examples, which nothing was trained or tuned on.

    Parameters
    ----------
    confidence : of the small variant in its answer, one an example.
    small_is_right, large_is_right : of both variants on the same examples.
    max_regret : share of all answers that may be kept and wrong where the large one is right.
    sure : the chance, over held-out sets, that the true share is below `max_regret`.

    Raises
    ------
    ValueError : lengths differ, or there is no example.

    Notes
    -----
    **Source**: fixed-sequence testing of "Learn then Test", Angelopoulos et al., 2110.01052, section 3; cascades by
    confidence, Viola and Jones 2001.
    """
    confidence = np.nan_to_num(np.asarray(confidence, np.float64), nan=-np.inf)
    small, large = np.asarray(small_is_right, bool), np.asarray(large_is_right, bool)
    count = len(confidence)
    if not count or not len(small) == len(large) == count:
        raise ValueError(f"{count}, {len(small)} and {len(large)} examples cannot be held against each other")
    regrets = ~small & large
    found, why = math.inf, f"{count:,} examples do not show that any answer can be kept"
    for threshold in np.unique(np.quantile(confidence, np.linspace(1, 0, steps), method="lower"))[::-1]:
        wrong = int((regrets & (confidence >= threshold)).sum())
        if binomial_tail(wrong, count, max_regret) > 1 - sure:
            break
        found = float(threshold)
        why = f"{wrong:,} regrets in {count:,} examples show a share under {max_regret:g}, {sure:.0%} sure"
    keeps = confidence >= found
    right = np.where(keeps, small, large)
    if keeps.any() and not keeps.all():  # between two examples: rounding of another batch size moves nobody over it
        found = float((confidence[keeps].min() + max(confidence[~keeps].max(), -1e300)) / 2)
    kept, accuracy, regret, alone, whole = (float(each.mean()) for each in (keeps, right, regrets & keeps, small, large))
    return Cascade(found, kept, accuracy, regret, count, why, small=alone, large=whole)


def binomial_tail(successes: int, trials: int, chance: float) -> float:
    """Chance of at most so many successes: how surprising few regrets are if the true share were `chance`."""
    if chance <= 0:
        return 1.0
    if chance >= 1:
        return float(successes >= trials)
    ways = math.lgamma(trials + 1)
    logs = [
        ways - math.lgamma(k + 1) - math.lgamma(trials - k + 1) + k * math.log(chance) + (trials - k) * math.log1p(-chance)
        for k in range(min(successes, trials) + 1)
    ]
    return min(1.0, math.fsum(map(math.exp, logs)))

"""A new model on trial beside the one that answers: who sees it, what is counted, and when nobody does any more.

Somebody sees one of the two all along (`scheduling.canary`); the log has which, and with what chance. Errors, late answers and
rejections count against it. Shadowed requests are asked of the new one as well, and its answers thrown away: what is learned is
whether it fails or is late where the other one does not. They wait behind everything else, with the deadline of the request.

A trial is of two versions: when either is swapped another one begins, with arms drawn anew, and answers that were asked for
before count for the one that they were asked in.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Sequence

from gyral.serve.engine import Part
from gyral.serve.said import Said
from gyral.serve.scheduling.canary import Arm, Canary, shadow_evidence

REMEMBERED = 100_000
"""Requests whose feedback is known to be of somebody."""
MAX_PAIRS = 10_000


class Trial:
    """A canary and its evidence.

    Parameters
    ----------
    note : told when it is stopped, and why.
    """

    def __init__(self, old: str, new: str, share: float, shadow_share: float, note: Callable[[str], None]) -> None:
        measures = {"error": False, "late": False, "rejected": False}
        self.canary = Canary(old, new, share, measures=measures, shadow_share=shadow_share)
        self._note = note
        self._who: OrderedDict[str, bytes] = OrderedDict()
        self._pairs: list[tuple[bool, bool]] = []

    def arm(self, subject: str) -> Arm:
        """What this subject is answered by; somebody without a name is drawn anew each time."""
        return self.canary.arm(subject.encode() or random.randbytes(8))

    def answered(self, request_id: str, subject: str, part: Part) -> None:
        """Count an answer."""
        key = subject.encode() or request_id.encode()
        if part.status == 504:
            self._observe(key, "late")
        elif part.status >= 500:
            self._observe(key, "error")
        self._who[request_id] = key
        if len(self._who) > REMEMBERED:
            self._who.popitem(last=False)

    def shadowed(self, old: Part, new: Part) -> None:
        """Compare both answers to one request."""
        if self.canary.is_stopped or len(self._pairs) >= MAX_PAIRS:
            return
        self._pairs.append((old.status >= 500, new.status >= 500))
        if self._pairs[-1][0] != self._pairs[-1][1] and shadow_evidence(self._pairs).is_worse:
            self.canary.stop("stopped by its answers that nobody saw")
            self._note(f"serve    the trial of {self.canary.new} ends: {self.canary.verdict().why}")

    def said(self, feedback: Sequence[Said]) -> None:
        """Count what people rejected."""
        for each in feedback:
            if each.verdict == "rejected" and each.request_id in self._who:
                self._observe(self._who[each.request_id], "rejected")

    def _observe(self, key: bytes, measure: str) -> None:
        was_stopped = self.canary.is_stopped
        verdict = self.canary.observe(key, measure)
        if verdict.is_stopped and not was_stopped:
            self._note(f"serve    the trial of {self.canary.new} ends: {verdict.why}")

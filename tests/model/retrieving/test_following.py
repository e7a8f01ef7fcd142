"""An index that follows a replica of live parameters, against its own rows."""

import numpy as np

from gyral.model.live import tables as t
from gyral.model.live.known import Known
from gyral.model.retrieving.following import Followed


def test_after_each_flip_the_index_holds_what_the_replica_holds():
    random = np.random.default_rng(0)
    known = Followed(Known(8))
    for step in range(12):
        new = [f"o{len(known.names) + at}" for at in range(random.integers(0, 40))]
        known.name(new, new)
        some = np.unique(random.integers(0, max(len(known.names), 1), 15))
        known.put(t.ITEM, some, random.normal(size=(len(some), 8)).astype(np.float32))
        known.put(t.SUBJECT, np.array([1]), np.zeros((1, 9), np.float32))
        known.gone(t.ITEM, some[:2])
        before = known.index.version
        assert before == str(step)  # nothing is seen before the flip
        view = known.flip()
        q = random.normal(size=(3, 8)).astype(np.float32)
        found = known.index.search(q, 10)
        num = min(10, len(known.names))
        truth = np.argsort(-(q @ view.objects.q_VD.T), axis=1, kind="stable")[:, :num]
        assert (found.ids_Bk[:, :num] == truth).all() and len(known.index) == len(known.names)
        assert found.version == str(view.version)
    known.forget(np.array([0, 3]))
    known.flip()
    assert not np.isin(known.index.search(q, 50).ids_Bk, [0, 3]).any()


def test_what_is_put_before_it_is_named_waits_for_its_name():
    known = Followed(Known(4))
    known.put(t.ITEM, np.array([1]), np.ones((1, 4), np.float32))
    known.flip()
    assert len(known.index) == 0
    known.name(["a", "b"], ["", ""])
    known.flip()
    assert known.index.search(np.ones((1, 4), np.float32), 1).ids_Bk.tolist() == [[1]]

"""What tests of the parameter server share."""

import pytest

from gyral.engine import ranks
from gyral.params.channels import proc

from .. import verbs


@pytest.fixture(autouse=True)
def _forked(monkeypatch):
    """Shards that a test's own process starts are forked."""
    for each in (ranks, proc):
        monkeypatch.setattr(each, "subprocess", verbs.INSTEAD)

"""What tests of servers share."""

import pytest

from .listening import Running


@pytest.fixture
def running():
    """Start something that listens; it is stopped in the end, if it was not."""
    started = []

    def start(*words, **more):
        started.append(Running(*words, **more))
        return started[-1]

    yield start
    for each in started:
        if not each.log.closed:
            each.stop()

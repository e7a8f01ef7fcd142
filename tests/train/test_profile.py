"""A trace holds the steps asked for, in the format that browsers open."""

import json

import torch

from gyral.train.profile import FILE, SKIPPED, Profile


def test_the_trace_has_the_operations_of_as_many_steps_as_asked_for(tmp_path):
    profile = Profile(tmp_path, 3)
    for _ in range(SKIPPED + 6):
        torch.mm(torch.ones(8, 8), torch.ones(8, 8))
        profile(None)
    profile.close()
    events = json.loads((tmp_path / FILE).read_text())["traceEvents"]
    assert sum(event.get("name") == "aten::mm" for event in events) == 3


def test_a_run_that_ends_early_leaves_what_it_has(tmp_path):
    profile = Profile(tmp_path, 100)
    for _ in range(SKIPPED + 2):
        torch.mm(torch.ones(8, 8), torch.ones(8, 8))
        profile(None)
    profile.close()
    events = json.loads((tmp_path / FILE).read_text())["traceEvents"]
    assert sum(event.get("name") == "aten::mm" for event in events) == 2

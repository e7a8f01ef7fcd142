"""The optimizer against a table of rates, torch's own optimizers, and rules of width that hold exactly for a linear model."""

import copy
import itertools

import pytest
import torch
from torch import nn

from gyral.config.training import Optim
from gyral.errors import ConfigError
from gyral.model.nets.llama import ROLES, Llama, Shape
from gyral.model.roles import Roles
from gyral.train.optim import Optimizer, groups_of, kinds, scale_initial, schedule

SHAPE = Shape(vocab=31, width=32, depth=2, heads=2, kv_heads=2, hidden=64)


def llama(width=32, tied=True, seed=0):
    torch.manual_seed(seed)
    return Llama(Shape(31, width, 2, 2, 2, 2 * width, tied))


TABLE = {  # factors of 20 steps with 4 of warm-up, computed by hand from the definitions
    "constant": {0: 0.25, 1: 0.5, 3: 1.0, 4: 1.0, 19: 1.0},
    "cosine": {0: 0.25, 3: 1.0, 4: 1.0, 8: 0.868198, 12: 0.55, 16: 0.231802, 19: 0.108646},
    "wsd": {0: 0.25, 3: 1.0, 4: 1.0, 10: 1.0, 14: 1.0, 15: 0.85, 17: 0.55, 19: 0.25},
}


@pytest.mark.parametrize("name", TABLE)
def test_the_schedule_is_the_table(name):
    config = Optim(schedule=name, warmup=4, decay=0.3, final=0.1)
    for step, factor in TABLE[name].items():
        assert schedule(config, step, 20) == pytest.approx(factor, abs=1e-6), step


def test_cosine_and_wsd_end_where_they_should_and_never_rise_after_the_warm_up():
    for name in ("cosine", "wsd"):
        config = Optim(schedule=name, warmup=5, decay=0.5, final=0.0)
        factors = [schedule(config, step, 50) for step in range(51)]
        assert factors[50] == pytest.approx(0.0, abs=1e-12)
        assert all(after <= before for before, after in itertools.pairwise(factors[5:]))


def test_warm_up_longer_than_the_run_only_rises():
    assert [schedule(Optim(warmup=10), step, 3) for step in range(3)] == [0.1, 0.2, pytest.approx(0.3)]


def stepped(model, optimizer, seed=1):
    torch.manual_seed(seed)
    tokens, positions = torch.randint(0, 31, (2, 8)), torch.arange(8).expand(2, 8)
    optimizer.zero_grad()
    model(tokens, positions).pow(2).mean().backward()
    optimizer.step(3) if isinstance(optimizer, Optimizer) else optimizer.step()


def test_adamw_is_torchs_with_decay_on_matrices_alone():
    ours, theirs = llama(), llama()
    config = Optim(rate=0.01, schedule="constant", warmup=0, weight_decay=0.5)
    matrices = [param for param in theirs.parameters() if param.dim() == 2]
    vectors = [param for param in theirs.parameters() if param.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.5}, {"params": vectors, "weight_decay": 0.0}]
    oracle = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.95), eps=1e-8, foreach=False, fused=False)
    optimizer = Optimizer(ours, config, 10, ROLES)
    for _ in range(5):
        stepped(ours, optimizer), stepped(theirs, oracle)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(mine, other, atol=2e-6)


def test_muon_updates_matrices_of_blocks_and_adamw_the_rest():
    ours, theirs = llama(), llama()
    hidden = [param for name, param in theirs.named_parameters() if "blocks" in name and param.dim() == 2]
    rest = [param for name, param in theirs.named_parameters() if "blocks" not in name and param.dim() == 2]
    vectors = [param for param in theirs.parameters() if param.dim() == 1]
    muon = torch.optim.Muon(hidden, lr=0.01, momentum=0.95, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    groups = [{"params": rest, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.95), fused=True)
    optimizer = Optimizer(ours, Optim(name="muon", rate=0.01, schedule="constant", warmup=0), 10, ROLES)
    for _ in range(3):
        stepped(ours, optimizer)
        muon.zero_grad()
        stepped(theirs, adamw)
        muon.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_state_that_was_saved_goes_on_as_if_it_had_not_been(name):
    config = Optim(name=name, rate=0.01, warmup=0)
    model = llama()
    optimizer = Optimizer(model, config, 10, ROLES)
    for _ in range(3):
        stepped(model, optimizer)
    other = llama(seed=5)
    other.load_state_dict(model.state_dict())
    resumed = Optimizer(other, config, 10, ROLES)
    resumed.inner.load_state_dict(copy.deepcopy(optimizer.state()))
    for _ in range(2):
        stepped(model, optimizer), stepped(other, resumed)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("tied", [True, False])
def test_every_parameter_is_in_one_group_and_its_kind_follows_from_its_role(tied):
    model = llama(tied=tied)
    told = {name: kind for name, _, kind in kinds(model, ROLES)}
    assert set(told) == set(dict(model.named_parameters()))
    assert {name for name, kind in told.items() if kind == "output"} == {"norm.weight"}
    assert told["embed.weight"] == "plain" and told["blocks.0.before_feed.weight"] == "plain"
    assert {kind for name, kind in told.items() if ".attention." in name or ".feed." in name} == {"hidden"}
    params = [id(param) for group in groups_of(model, Optim(), ROLES) for param in group["params"]]
    assert sorted(params) == sorted(id(param) for param in model.parameters())


def test_an_untied_output_without_a_norm_before_it_is_scaled_itself():
    model = nn.ModuleDict({"up": nn.Linear(8, 8), "logits": nn.Linear(8, 3)})
    roles = Roles((("up", "column"), ("logits", "logits")), last=("logits",))
    told = {name: kind for name, _, kind in kinds(model, roles)}
    assert told == {"up.weight": "hidden", "up.bias": "plain", "logits.weight": "output", "logits.bias": "output"}


def test_rates_initial_values_and_decay_follow_the_width():
    config = Optim(rate=0.01, base_width=16, weight_decay=0.1)
    model, plain = llama(64), llama(64)
    scale_initial(model, config, ROLES)
    by_name, before = dict(model.named_parameters()), dict(plain.named_parameters())
    assert torch.equal(by_name["blocks.0.feed.up.weight"], before["blocks.0.feed.up.weight"] * 0.5)
    assert torch.equal(by_name["norm.weight"], torch.full((64,), 0.25))
    assert torch.equal(by_name["embed.weight"], before["embed.weight"])
    scale = {id(param): group for group in groups_of(model, config, ROLES) for param in group["params"]}
    hidden, embed = scale[id(by_name["blocks.1.attention.out.weight"])], scale[id(by_name["embed.weight"])]
    assert hidden["scale"] == 0.25 and hidden["weight_decay"] == pytest.approx(0.4) and embed["scale"] == 1.0
    assert scale[id(by_name["norm.weight"])]["scale"] == 0.25


def test_at_the_base_width_nothing_changes():
    model = llama(64)
    scale_initial(model, Optim(base_width=64), ROLES)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), llama(64).parameters(), strict=True))
    assert {group["scale"] for group in groups_of(model, Optim(base_width=64), ROLES)} == {1.0}


def change_of_logits(width, base_width):
    """How much one update changes the logits, by the root of their mean square; not a loss, so that rates show alone."""
    model = llama(width)
    config = Optim(rate=0.003, schedule="constant", warmup=0, weight_decay=0.0, base_width=base_width)
    scale_initial(model, config, ROLES)
    tokens, positions = (
        torch.randint(0, 31, (4, 16), generator=torch.Generator().manual_seed(0)),
        torch.arange(16).expand(4, 16),
    )
    optimizer = Optimizer(model, config, 10, ROLES)
    before = model(tokens, positions).detach()
    for _ in range(3):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(tokens, positions).reshape(-1, 31), tokens.roll(-1, 1).reshape(-1)).backward()
        optimizer.step(0)
    return float((model(tokens, positions).detach() - before).pow(2).mean().sqrt())


def test_an_update_moves_the_logits_as_far_at_every_width_only_when_rates_follow_it():
    scaled = [change_of_logits(width, 32) for width in (32, 128, 512)]
    standard = [change_of_logits(width, 0) for width in (32, 128, 512)]
    assert max(scaled) / min(scaled) < 1.6
    assert standard[2] / standard[0] > 3


def test_a_model_whose_width_is_not_known_is_refused():
    with pytest.raises(ConfigError, match="width"):
        groups_of(nn.Linear(3, 3), Optim(base_width=8), Roles())


def test_muon_refuses_a_model_whose_matrices_are_split():
    model = llama()
    model.embed.weight.device_mesh = object()  # as a DTensor has
    with pytest.raises(ConfigError, match="whole matrices"):
        Optimizer(model, Optim(name="muon"), 10, ROLES)
    Optimizer(model, Optim(), 10, ROLES)

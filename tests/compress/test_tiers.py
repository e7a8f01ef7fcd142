"""`--tiers`: what is tried stands in the card with its measures, what is chosen is published, and too much loss is not."""

import json

import pytest
from click.testing import CliRunner

from gyral.cli import commands
from gyral.config import load
from gyral.errors import QualityError, UsageError
from gyral.files import versions
from gyral.model import card as cards
from gyral.model.family import RECOMMENDER
from gyral.run import Run


def tried(project, name="shop", **flags):
    from gyral.compress.tiers import compress_for_tiers

    config = load(project.root, [], {key.replace("__", "."): value for key, value in flags.items()})
    with Run.start(project.root, "compress", config) as run:
        return compress_for_tiers(project.root, name, config, run)


@pytest.mark.slow
def test_each_tier_gets_a_variant_and_the_card_says_what_was_tried(shop):
    targets = ["rows-int4", "rows-hash-16", "int8+rows-int4", "int4"]
    card = tried(shop, compress__tiers=["phone", "server"], compress__tried=targets, compress__max_loss=0.02)
    rows = {each.to: each for each in cards.read_card(cards.find(shop.root, "shop")).variants}
    assert list(rows) == ["", "rows-int4", "rows-hash-16", "int8+rows-int4", "int4"] and card.variants == list(rows.values())
    assert "comes after" in rows["int8+rows-int4"].why and "calibrated" in rows["int4"].why
    assert "loses" in rows["rows-hash-16"].why and not versions(shop.root / "models", "shop-rows-hash-16")
    whole, small = rows[""], rows["rows-int4"]
    assert small.tiers[0] == "phone" and small.model == "shop-rows-int4@1" and small.is_front
    assert small.relative_loss == pytest.approx(max(0, 1 - small.quality / whole.quality), abs=1e-5)
    assert small.size_bytes < whole.size_bytes and 0 < small.memory_bytes < whole.memory_bytes
    for each, name in ((whole, "shop"), (small, small.model)):
        folder = cards.find(shop.root, name)
        size = sum(path.stat().st_size for path in folder.iterdir() if path.name != "card.json")
        assert each.size_bytes == size and each.unit == "answers" and each.per_s > 100
        assert 0 < each.p50_ms["1"] <= each.p99_ms["1"] and each.p50_ms["1"] < each.p50_ms["8"] <= each.p99_ms["8"]
    published = cards.read_card(cards.find(shop.root, "shop-rows-int4"))
    assert published.compression.metric_after == small.quality and published.variants == card.variants
    served, source = (RECOMMENDER.load(cards.find(shop.root, name)) for name in ("shop-rows-int4", "shop"))
    same = 0
    for subject in source.codes.inputs.subjects[:50]:
        one, two = (model.recommend(subject, 10, {}) for model in (served, source))
        same += len({item.object for item in one.items} & {item.object for item in two.items})
    assert same > 450
    assert not [path.name for path in (shop.root / "models").glob(".*")]
    runner = CliRunner()
    shown = runner.invoke(commands, ["show", "shop-rows-int4", "--root", str(shop.root)]).output
    assert "MB in memory" in shown and "* rows-int4" in " ".join(shown.split()).replace("*  ", "* ") and "loses" in shown
    data = runner.invoke(commands, ["show", "shop-rows-int4", "--root", str(shop.root), "--json"]).output
    assert json.loads(data)["variants"][1]["tiers"] == small.tiers
    tight = {"phone": {"memory_bytes": 1}}
    with pytest.raises(QualityError, match="phone"):
        tried(shop, compress__tiers=["phone"], compress__tried=["int8"], serve__tiers=tight)


def test_what_is_no_tier_or_target_is_said(project):
    with pytest.raises(UsageError, match="no tier `phon`"):
        tried(project, compress__tiers=["phon"])
    root = ["--root", str(project.root)]
    for words, told in (
        (["--to", "prune-0.3+int9"], "unknown compressor `int9`"),
        (["--to", "prune-*"], "`prune-*` stands for a family"),
        (["--tiers", "phone,lap"], "no tier `lap`"),
    ):
        found = CliRunner().invoke(commands, ["compress", "x", *words, *root])
        assert told in str(found.exception)


def test_a_share_out_of_its_range_is_said():
    from gyral import plugins

    for name in ("prune-1.5", "prune-x", "rank-0", "rank-nan", "rows-hash-1"):
        with pytest.raises(UsageError, match=name):
            plugins.find("compressor", name)
    assert plugins.find("compressor", "rows-hash-4")

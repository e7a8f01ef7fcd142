import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gyral.config import Config, budget_seconds, describe, load, to_toml
from gyral.errors import ConfigError


def test_defaults_then_file_then_set_then_flags(tmp_path):
    (tmp_path / "gyral.toml").write_text('[loop]\nturns = 3\n[train]\nbudget = "9s"\nseed = 4\n')
    config = load(tmp_path, ["train.seed=5", "curate.repeats=false"], {"train.budget": "1m", "train.family": None})
    assert (config.loop.turns, config.train.seed, config.train.budget, config.train.family) == (
        3,
        5,
        "1m",
        "recommender",
    )
    assert config.curate.repeats is False


@pytest.mark.parametrize(
    ("text", "what", "where", "hint"),
    [
        ("[train]\nbugdet = '3m'\n", "`train.bugdet` is not a setting", "gyral.toml, line 2", "did you mean `budget`?"),
        ("[trian]\nseed = 1\n", "`trian` is not a setting", "gyral.toml, line 1", "did you mean `train`?"),
        ("\n[loop]\nturns = 0\n", "`loop.turns = 0` cannot be used", "gyral.toml, line 3", "turns + 1 slices"),
        ("[loop]\nturns = 'six'\n", '`loop.turns = "six"` cannot be used', "gyral.toml, line 2", ""),
        ("[[curate.rules]]\nreason='x'\nfield='kind'\nop='is'\n", "cannot be used", "gyral.toml", "`is null`"),
        ("[curate]\nname = 'a b'\n", '`curate.name = "a b"` cannot be used', "gyral.toml, line 2", "letters, digits"),
        ("[curate]\nname = 'é'\n", "cannot be used", "gyral.toml, line 2", "letters, digits"),
        ("[train\n", "not valid TOML", "gyral.toml", "strings need quotes"),
    ],
)
def test_a_mistake_is_named_with_its_line_and_what_is_allowed(tmp_path, text, what, where, hint):
    (tmp_path / "gyral.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path)
    assert what in caught.value.what
    assert where in caught.value.where
    assert hint in caught.value.hint


def test_a_file_in_another_encoding_is_a_clear_error(tmp_path):
    (tmp_path / "gyral.toml").write_bytes("[curate]\nname = 'é'\n".encode("latin-1"))
    with pytest.raises(ConfigError, match="not valid TOML"):
        load(tmp_path)


@pytest.mark.parametrize("text", ["0s", "-1m", "1e400s", "nan", "soon", "9e99h"])
def test_a_budget_that_buys_nothing_or_everything_is_refused(text):
    with pytest.raises(ConfigError):
        budget_seconds(text)


def test_a_wrong_set_is_named_as_given(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, ["serve.port=99999"])
    assert caught.value.where == "--set serve.port=99999"
    with pytest.raises(ConfigError, match="no `=`"):
        load(tmp_path, ["serve.port"])


def test_the_resolved_configuration_reads_back_equal(tmp_path):
    config = load(tmp_path, ['ingest.map={subject="a b", object="ö"}', "compress.max_loss=0.5"], {"ingest.source": 'x"y'})
    (tmp_path / "gyral.toml").write_text(to_toml(config))
    assert load(tmp_path) == config


@given(st.text(st.characters(blacklist_categories=("Cs",)), max_size=20))
def test_any_string_survives_toml(text):
    import tomllib

    config = msgspec.structs.replace(Config(), ingest=msgspec.structs.replace(Config().ingest, source=text))
    assert tomllib.loads(to_toml(config))["ingest"]["source"] == text


def test_every_setting_explains_itself():
    assert [key for key, _, meaning in describe(Config()) if not meaning] == []


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("3m", 180), ("1.5h", 5400), ("3e10flop", 1)])
def test_budgets(text, seconds):
    assert budget_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["0", "0s", "-3m", "3 parsecs", "", "e5s", "m"])
def test_a_budget_that_buys_nothing_is_refused(text):
    with pytest.raises(ConfigError):
        budget_seconds(text)

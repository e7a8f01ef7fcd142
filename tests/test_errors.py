from gyral.errors import ConfigError, GyralError, MissingExtra, did_you_mean, render


def test_render_says_what_why_where_and_what_next():
    error = GyralError("`x` cannot be read", why="it is empty", where="x.csv", hint="fill it")
    assert render(error) == "`x` cannot be read: it is empty (x.csv)\n\nhint: fill it"
    assert str(GyralError("plain")) == "plain"


def test_exit_codes_tell_usage_from_failure():
    assert ConfigError("x").exit_code == 2
    assert GyralError("x").exit_code == 1


def test_missing_extra_names_the_pip_line():
    assert "pip install 'gyral[train]'" in render(MissingExtra("numba", "train", "training"))


def test_did_you_mean_names_the_nearest_and_lists_all():
    assert did_you_mean("recomender", ["recommender", "lm"]).startswith("did you mean `recommender`?")
    assert did_you_mean("CUSTOMERID", ["CustomerID", "x"]).startswith("did you mean `CustomerID`?")
    assert did_you_mean("zzz", ["b", "a"]) == "allowed: `a`, `b`"

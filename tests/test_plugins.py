import pytest

from gyral import plugins
from gyral.errors import UsageError


def test_every_builtin_can_be_loaded():
    for kind in plugins.KINDS:
        for name in plugins.names(kind):
            assert plugins.find(kind, name) is not None


def test_a_registered_object_wins_and_a_typo_is_named(monkeypatch):
    monkeypatch.setattr(plugins, "_registered", {})
    plugins.register("layout", "online_retail", "mine")
    assert plugins.find("layout", "online_retail") == "mine"
    with pytest.raises(UsageError) as caught:
        plugins.find("layout", "online_retial")
    assert "did you mean `online_retail`?" in caught.value.hint
    with pytest.raises(UsageError):
        plugins.register("layouts", "x", None)

"""Where training begins: a model's name comes before a folder that is called the same."""

import pytest

from gyral.errors import NotFound
from gyral.train.tasks import folder_of


def test_a_model_comes_before_a_folder_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pages").mkdir()
    assert str(folder_of(tmp_path, "pages")) == "pages"
    (tmp_path / "models" / "pages@2").mkdir(parents=True)
    assert folder_of(tmp_path, "pages") == folder_of(tmp_path, "pages@2") == tmp_path / "models" / "pages@2"
    with pytest.raises(NotFound, match="no model `others`"):
        folder_of(tmp_path, "others")

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gyral.errors import InputError
from gyral.law import mixture_best, mixture_verb

LAWS = Path(__file__).resolve().parents[2] / "data" / "laws"
WEIGHTS, LOSSES = LAWS / "regmix_train_mixture_1m.csv", LAWS / "regmix_train_pile_loss_1m.csv"


def _write(path: Path, header: str, *rows: str) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_one_file_with_weights_and_losses(tmp_path: Path) -> None:
    file = _write(tmp_path / "m.csv", "run,w:web,w:code,loss,other", "a,0.5,0.5,3,1.5", "b,1,0,2,1.25")
    rows = mixture_verb.read(file)
    assert (rows.domains, rows.targets) == (("web", "code"), ("loss",))
    assert rows.weights_nD.tolist() == [[0.5, 0.5], [1, 0]]
    assert mixture_verb.read(file, targets=["other", "loss"]).loss_nT.tolist() == [[1.5, 3], [1.25, 2]]


def test_rows_of_two_files_are_joined_by_their_key(tmp_path: Path) -> None:
    weights = _write(tmp_path / "w.csv", "index,p_web,p_code", "1,0.5,0.5", "2,1,0")
    losses = _write(tmp_path / "l.csv", "index,val/a,val/b", "2,3.5,4.5", "1,1.5,2.5")
    rows = mixture_verb.read(weights, losses, prefix="p_")
    assert rows.targets == ("a", "b")
    assert rows.loss_nT.tolist() == [[1.5, 2.5], [3.5, 4.5]]
    assert mixture_verb.read(weights, losses, prefix="p_", targets=["val/b"]).loss_nT.tolist() == [[2.5], [4.5]]
    assert mixture_verb.read(weights, losses, prefix="p_", targets=["val/*"]).targets == ("a", "b")


@pytest.mark.parametrize(
    ("losses", "options", "what"),
    [
        ("index,a\n1,1.5\n3,2.5\n", {}, "do not belong together"),
        ("other,a\n1,1.5\n", {"targets": ["a"]}, "do not belong together"),
        ("index,a\n1,1.5\n1,2.5\n", {}, "`index` names a row twice"),
        ("index,a\n1,1.5\n2,2.5\n", {"prefix": "x"}, "no column of weights begins with `x`"),
        ("index,a\n1,1.5\n2,2.5\n", {"targets": ["b"]}, "there is no column `b`"),
        ("index\n1\n2\n", {}, "there is no column of losses"),
        ("index,a\n1,x\n2,y\n", {"targets": ["a"]}, "`a` holds no numbers"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said(tmp_path: Path, losses: str, options, what: str) -> None:
    weights = _write(tmp_path / "w.csv", "index,w:a,w:b", "1,0.5,0.5", "2,1,0")
    (tmp_path / "l.csv").write_text(losses)
    with pytest.raises(InputError) as error:
        mixture_verb.read(weights, tmp_path / "l.csv", **options)
    assert what in error.value.what


def test_from_published_files_to_an_answer_to_read(tmp_path: Path) -> None:
    rows = mixture_verb.read(WEIGHTS, LOSSES, prefix="train_the_pile_", targets=["metric/the_pile_github_val_loss"])
    few = mixture_verb.Mixtures(rows.weights_nD[:80], rows.loss_nT[:80], rows.domains, rows.targets)
    done = []
    law = mixture_verb.fit(few, on_target=lambda at, of: done.append((at, of)))
    assert done == [(1, 1)]
    found = mixture_best.best(law, num_bootstraps=3)
    assert max(found.weights, key=lambda name: found.weights[name]) == "github"
    text = mixture_verb.text(law, found)
    assert text.splitlines()[1].startswith("github")
    assert f"row {found.neighbour}," in text
    told = mixture_verb.as_json(law)
    (target,) = told["targets"].values()
    assert sum(target["share"].values()) == pytest.approx(1)
    assert target["off"] == pytest.approx(float(np.sqrt((law.residual_nT**2).mean())))


def test_a_second_scale_has_the_same_domains(tmp_path: Path) -> None:
    one = mixture_verb.read(_write(tmp_path / "1.csv", "w:a,w:b,loss", "0.5,0.5,3"))
    other = mixture_verb.read(_write(tmp_path / "2.csv", "w:a,w:c,loss", "0.5,0.5,3"))
    with pytest.raises(InputError, match="the second scale has other domains"):
        mixture_verb.fit(one, other)

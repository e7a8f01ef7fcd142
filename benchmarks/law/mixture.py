"""From mixtures of 17 domains of the Pile to 13 losses: 512 runs of 1M parameters rank 256 others, and the same 256 at 60M.

Mean over targets of Spearman's ρ with what was measured. Everything of gyral's is fitted and chosen on the 512 training rows.
The peer is LightGBM with RegMix's settings (1,000 trees, rate .01), twice: as published, where early stopping looks at the test
rows of 1M, and with a seventh of the training rows held out for it. One thread each; CPU seconds of fitting, without imports.
`stacked`, the law, fits each member again for each of four folds.

`interval`: how often the middle four fifths of `loss_80`'s making held a test row's loss (three targets).
`second scale`: the law with 48 rows of 60M, and without, on the other 208: mean ρ, and mean relative error.
Command: .venv/bin/python benchmarks/law/mixture.py (two CPU-minutes)
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import ROOT, peer, timed, write

from gyral.law import mixture, mixture_verb

LAWS = ROOT / "data" / "laws"
REQUIREMENTS = ["lightgbm==4.7.0", "scikit-learn", "numpy"]
PILE_CC = "the_pile_pile_cc_val_loss"
LIGHTGBM = """
import json, sys, time
import numpy as np, lightgbm
data = np.load(sys.argv[1])
w, y, w1, y1, w60 = (data[name] for name in ("w", "y", "w1", "y1", "w60"))
settings = dict(objective="regression", n_estimators=1000, learning_rate=1e-2, random_state=42, n_jobs=1, verbosity=-1)
out = np.random.default_rng(0).random(len(w)) < 0.15
lightgbm.LGBMRegressor(**settings).fit(w[:50], y[:50, 0])
for name, keep in (("published", np.ones(len(w), bool)), ("held_out", ~out)):
    start, told = time.process_time(), []
    for t in range(y.shape[1]):
        stop = (w1, y1[:, t]) if name == "published" else (w[out], y[out, t])
        model = lightgbm.LGBMRegressor(**settings)
        model.fit(w[keep], y[keep, t], eval_set=[stop], eval_metric="l2", callbacks=[lightgbm.early_stopping(3, verbose=False)])
        told.append([model.predict(w1), model.predict(w60)])
    used = time.process_time() - start
    told = np.array(told)
    np.savez(f"{sys.argv[1]}.{name}.npz", one=told[:, 0].T, sixty=told[:, 1].T)
    print(json.dumps({"name": name, "cpu_s": used}))
"""


def main() -> None:
    if os.environ.get("OPENBLAS_NUM_THREADS") != "1":  # read as numpy is loaded
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "OPENBLAS_NUM_THREADS": "1"})
    train, test, larger = (_read(*each) for each in (("train", "1m"), ("test", "1m"), ("test", "60m")))
    results: dict[str, object] = {}

    def row(one: np.ndarray, sixty: np.ndarray, cpu_s: float) -> dict[str, float]:
        at_1m, at_60m = _agreements(one, test.loss_nT), _agreements(sixty, larger.loss_nT)
        cc = train.targets.index(PILE_CC)
        means = {"rho_1m": float(np.mean(at_1m)), "rho_60m": float(np.mean(at_60m))}
        return {**means, "pile_cc_1m": at_1m[cc], "pile_cc_60m": at_60m[cc], "worst_1m": min(at_1m), "cpu_s": cpu_s}

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "data.npz")
        np.savez(path, w=train.weights_nD, y=train.loss_nT, w1=test.weights_nD, y1=test.loss_nT, w60=larger.weights_nD)
        lines = str(timed([peer("law-lightgbm", REQUIREMENTS), "-c", LIGHTGBM, str(path)])["stdout"]).strip().splitlines()
        for each in map(json.loads, [line for line in lines if line.startswith("{")]):
            told = np.load(f"{path}.{each['name']}.npz")
            results[f"lightgbm_{each['name']}"] = row(told["one"], told["sixty"], each["cpu_s"])
    for name, of in mixture.MEMBERS.items():
        start = time.process_time()
        models = [of(train.weights_nD, train.loss_nT[:, t]) for t in range(len(train.targets))]
        used = time.process_time() - start
        one, sixty = (np.stack([each.predict(rows.weights_nD) for each in models], axis=1) for rows in (test, larger))
        results[name] = row(one, sixty, used)
    start = time.process_time()
    law = mixture_verb.fit(train)
    used = time.process_time() - start
    results["stacked"] = row(law.predict(test.weights_nD), law.predict(larger.weights_nD), used)
    shares = dict(zip(law.names, law.share_TM.mean(axis=0).round(3).tolist(), strict=True))
    results["shares"] = shares
    results["interval"] = _coverage(law, test, ("the_pile_arxiv_val_loss", PILE_CC, "the_pile_dm_mathematics_val_loss"))
    results["second scale"] = _second(law, train, larger)
    write("law_mixture", {"results": results})


def _read(which: str, scale: str) -> mixture_verb.Mixtures:
    names = [LAWS / f"regmix_{which}_{what}_{scale}.csv" for what in ("mixture", "pile_loss")]
    return mixture_verb.read(names[0], names[1], prefix="train_the_pile_")


def _agreements(told: np.ndarray, observed: np.ndarray) -> list[float]:
    return [mixture.spearman(a, b) for a, b in zip(told.T, observed.T, strict=True)]


def _coverage(law: mixture.MixtureLaw, test: mixture_verb.Mixtures, targets: tuple[str, ...]) -> dict[str, float]:
    rng, found = np.random.default_rng(0), {}
    for name in targets:
        t, draws = law.targets.index(name), []
        for _ in range(40):
            count = rng.multinomial(len(law.loss_nT), np.full(len(law.loss_nT), 1 / len(law.loss_nT))).astype(np.float64)
            told = law.refitted(count, [t]).predict(test.weights_nD, [t])[:, 0]
            draws.append(told + rng.choice(law.residual_nT[:, t], (25, len(told))))
        low, high = np.percentile(np.concatenate(draws), [10, 90], axis=0)
        found[name] = float(((test.loss_nT[:, t] >= low) & (test.loss_nT[:, t] <= high)).mean())
    return found


def _second(law: mixture.MixtureLaw, train: mixture_verb.Mixtures, larger: mixture_verb.Mixtures) -> dict[str, float]:
    order = np.random.default_rng(1).permutation(len(larger.loss_nT))
    seen, asked = order[:48], order[48:]
    rows = mixture_verb.Mixtures(larger.weights_nD[seen], larger.loss_nT[seen], larger.domains, larger.targets)
    carried = mixture_verb.fit(train, rows)
    observed, found = larger.loss_nT[asked], {}
    for name, each in (("without", law), ("with", carried)):
        told = each.predict(larger.weights_nD[asked])
        found[f"rho_{name}"] = float(np.mean(_agreements(told, observed)))
        found[f"relative_error_{name}"] = float(np.abs(told / observed - 1).mean())
    return found


if __name__ == "__main__":
    main()

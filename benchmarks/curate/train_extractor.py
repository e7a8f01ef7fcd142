"""Make the weights of the main-content extractor from pages with known content; `extractor_pages.py` says which.

CHECKOUTS holds the repositories named there as folders `owner+name`. Two forests (LightGBM): the first sees blocks, the second
also the first one's scores around each block. Whatever is learned is applied to pages of other sites than it was learned from,
three folds by site: the tables of words, the first forest's scores that the second learns from, and the figures printed.
Command: .venv/bin/python benchmarks/curate/train_extractor.py CHECKOUTS (four minutes on an idle machine, twenty on a busy one)
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import zlib
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from extractor_labels import Scanned, scanned, shares
from extractor_pages import Page, held_out, overlap, training, words

FOLDS = 3
BINS = {"max_bin": 63}
REQUIREMENTS = ["lightgbm==4.*", "numba==0.6*", "numpy==2.*", "resiliparse", "trafilatura==2.3.*", "lxml_html_clean"]
PACKAGE = Path(__file__).resolve().parents[2] / "src" / "gyral" / "curate" / "text"
THRESHOLD = 0.55
OTHER_KINDS = 0.6
"""Weight of a page that is no article: shops and lists of links have content of other kinds, and less certain labels."""
SOURCES = {
    "wcxb": "Murrough-Foley/web-content-extraction-benchmark, CC-BY-4.0, Murrough Foley 2026; "
    "changed: learned from, labels of articles averaged with what trafilatura (Apache-2.0) finds",
    "readability": "mozilla/readability test pages, Apache-2.0; labels averaged likewise",
    "newspaper": "codelucas/newspaper test pages, MIT",
    "postlight": "postlight/parser fixtures, MIT or Apache-2.0; content as trafilatura (Apache-2.0) finds it",
    "goose3": "goose3/goose3 test pages, Apache-2.0; content as trafilatura (Apache-2.0) finds it",
}
FIRST = {"num_leaves": 24, "trees": 80, "learning_rate": 0.1}
SECOND = {"num_leaves": 32, "trees": 160, "learning_rate": 0.06}


def main() -> None:
    if importlib.util.find_spec("lightgbm") is None:
        from measure import peer

        python = peer("curate-train-extractor", REQUIREMENTS)
        raise SystemExit(subprocess.run([python, __file__, *sys.argv[1:]], check=False).returncode)
    pages, dropped = load(Path(sys.argv[1]))
    folds = np.array([zlib.crc32(page["site"].encode()) % FOLDS for page in pages])
    out = fit(pages, folds)
    out["figures"] = report(pages, out["scores"])
    out["dropped"] = dropped
    save(out, pages, THRESHOLD)


def utf8(raw: bytes) -> bytes:
    from resiliparse.parse.encoding import detect_encoding

    try:
        raw.decode()
        return raw
    except UnicodeDecodeError:
        return raw.decode(detect_encoding(raw) or "utf-8", "replace").encode("utf-8", "replace")


def load(root: Path) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Pages as arrays with labels; those that an evaluation holds are counted and left out."""
    held = held_out(root)
    dropped: Counter[str] = Counter()
    pages = []
    for page in training(root):
        raw = utf8(page.raw)
        arrays = scanned(raw)
        gold = gold_text(page, raw)
        if gold is None or not len(arrays.blocks):
            dropped[f"{page.source} unusable"] += 1
            continue
        reason = overlap(page, gold, held)
        if reason:
            dropped[f"{page.source} {reason}"] += 1
            continue
        given = shares(arrays, gold)
        sizes = np.array([len(words(text)) for text in arrays.texts()], float)
        found = float((given * sizes).sum() / max(len(words(gold)), 1))
        if found < 0.5:
            dropped[f"{page.source} content not in HTML"] += 1
            continue
        other = second_opinion(page, raw)
        target = given if other is None else (given + shares(arrays, other)) / 2
        weight = np.sqrt(sizes + 0.5)
        record = {
            "page": arrays,
            "gold": gold,
            "title": page.title,
            "kind": page.kind,
            "source": page.source,
            "site": page.site or page.name,
            "name": page.name,
            "target": target,
            "weight": weight / weight.sum() * page.weight * (1 if page.kind == "article" else OTHER_KINDS),
            "sizes": sizes,
        }
        pages.append({**record, "below": below(record), "inside": inside(record)})
    print("dropped", dict(dropped), "kept", dict(Counter(page["source"] for page in pages)), file=sys.stderr)
    return pages, dict(dropped)


def gold_text(page: Page, raw: bytes) -> str | None:
    """Content as text: given, or of HTML, or what trafilatura finds where resiliparse agrees on at least 80 %."""
    if page.source == "readability":
        return "\n".join(scanned((page.gold or "").encode()).texts())
    if page.gold is not None:
        return page.gold
    from resiliparse.extract.html2text import extract_plain_text
    from trafilatura import extract

    text = raw.decode("utf-8", "replace")
    one, other = extract(text, include_comments=False) or "", extract_plain_text(text, main_content=True)
    have, want = Counter(words(one)), Counter(words(other))
    shared = sum((have & want).values())
    return one if shared > 0.8 * max(have.total(), want.total(), 100) else None


def second_opinion(page: Page, raw: bytes) -> str | None:
    """What trafilatura takes for the content of an article; known contents end early on some pages."""
    if page.kind != "article" or page.source not in ("wcxb", "readability"):
        return None
    from trafilatura import extract

    text = extract(raw.decode("utf-8", "replace"), include_comments=False) or ""
    return text if len(text) > 200 else None


def tables(pages: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Log-odds in sixteenths of words of attributes and of words of text; a site counts a word once."""
    from gyral.curate.text.block_features_kernel import WORD_BUCKETS
    from gyral.curate.text.tags_kernel import BUCKETS

    above: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    inside = np.zeros((WORD_BUCKETS, 2))
    sites: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for page in pages:
        sites[page["site"]].append(page)
    for site, own in sites.items():
        seen: set[tuple[int, int]] = set()
        for page in own:
            for token, share in page["below"].items():
                above[token][site].append(share)
            seen |= page["inside"]
        for bucket, label in seen:
            inside[bucket, label] += 1
    attribute = np.zeros(BUCKETS)
    for token, by_site in above.items():
        if len(by_site) > 1 or token < 4:
            yes = sum(sum(each) / len(each) for each in by_site.values())
            attribute[token] = np.log((yes + 0.7) / (len(by_site) - yes + 0.7))
    prior = np.log(inside[:, 1].sum() / inside[:, 0].sum())
    word = np.log((inside[:, 1] + 1.5) / (inside[:, 0] + 1.5)) - prior * (inside.sum(1) > 0)
    return tuple(np.clip(np.round(16 * each), -96, 96).astype(np.int8) for each in (attribute, word))  # type: ignore[return-value]


def below(page: dict[str, Any]) -> dict[int, float]:
    """Of each word of attributes on a page, the share of content in the text below (or right behind, if it is inline)."""
    arrays: Scanned = page["page"]
    tokens = arrays.tokens.tolist()
    yes, all_ = [0.0] * len(arrays.nodes), [0.0] * len(arrays.nodes)
    out: dict[int, list[float]] = defaultdict(lambda: [0.0, 0.0])

    def note(begin: int, end: int, content: float, size: float) -> None:
        for token in set(tokens[begin:end]):
            both = out[token]
            both[0] += content
            both[1] += size

    for block, size, target in zip(arrays.blocks.tolist(), page["sizes"].tolist(), page["target"].tolist(), strict=True):
        yes[block[2]] += size * target
        all_[block[2]] += size
        note(block[4], block[5], size * target, size)
    for node, (up, _, begin, end) in reversed(list(enumerate(arrays.nodes.tolist()))):
        if up >= 0:
            yes[up] += yes[node]
            all_[up] += all_[node]
        if end > begin and all_[node]:
            note(begin, end, yes[node], all_[node])
    return {token: each[0] / each[1] for token, each in out.items() if each[1] > 0}


def inside(page: dict[str, Any]) -> set[tuple[int, int]]:
    """Words of the blocks of a page, as buckets, with whether the block is content."""
    from gyral.curate.text.block_features_kernel import word_buckets

    out: set[tuple[int, int]] = set()
    buckets = np.empty(14, np.int64)
    for b, (begin, end) in enumerate(page["page"].blocks[:, :2]):
        count = word_buckets(page["page"].text, begin, end, buckets)
        label = int(page["target"][b] > 0.5)
        out.update((bucket, label) for bucket in buckets[:count].tolist())
    return out


def rows_of(page: dict[str, Any], attribute: np.ndarray, word: np.ndarray) -> np.ndarray:
    from gyral.curate.text.block_features_kernel import describe
    from gyral.curate.text.main_content_kernel import NUM_ALL

    arrays: Scanned = page["page"]
    rows = np.zeros((len(arrays.blocks), NUM_ALL), np.float32)
    sums = np.zeros((len(arrays.nodes), 7), np.int64)
    describe(
        arrays.data,
        arrays.title,
        arrays.text,
        arrays.nodes,
        len(arrays.nodes),
        arrays.blocks,
        len(arrays.blocks),
        arrays.tokens if len(arrays.tokens) else np.zeros(1, np.uint16),
        attribute,
        word,
        rows,
        sums,
    )
    return rows


def around(page: dict[str, Any], rows: np.ndarray, scores: np.ndarray) -> None:
    from gyral.curate.text.main_content_kernel import look_around

    arrays: Scanned = page["page"]
    look_around(arrays.nodes, len(arrays.nodes), arrays.blocks, len(arrays.blocks), scores.astype(np.float32), rows)


def boosted(data: Any, settings: dict[str, Any]) -> Any:
    import lightgbm

    options = {
        "objective": "cross_entropy",
        "num_leaves": settings["num_leaves"],
        "learning_rate": settings["learning_rate"],
        "min_data_in_leaf": 60,
        "feature_fraction": 0.5,
        "bagging_fraction": 0.7,
        "bagging_freq": 1,
        "lambda_l2": 5.0,
        "num_threads": 1,
        "seed": 7,
        "verbosity": -1,
        "deterministic": True,
        "force_row_wise": True,
    }
    return lightgbm.train({**options, **BINS}, data, settings["trees"])


def fit(pages: list[dict[str, Any]], folds: np.ndarray) -> dict[str, Any]:
    """Both forests on everything, and the second one's scores of each page by what was learned from other sites."""
    from gyral.curate.text.block_features_kernel import NUM_FEATURES
    from gyral.curate.text.main_content_kernel import FLOOR

    rows: list[Any] = [None] * len(pages)
    for fold in range(FOLDS):
        learned = tables([page for page, each in zip(pages, folds, strict=True) if each != fold])
        for at in np.flatnonzero(folds == fold):
            rows[at] = rows_of(pages[at], *learned)
    starts = np.cumsum([0, *(len(each) for each in rows)])
    every = np.concatenate(rows)
    target = np.concatenate([page["target"] for page in pages])
    weight = np.concatenate([page["weight"] for page in pages])
    fold_of = np.repeat(folds, np.diff(starts))

    def both(columns: int, settings: dict[str, Any], which: np.ndarray) -> tuple[np.ndarray, Any]:
        import lightgbm

        options = {**BINS, "num_threads": 1, "verbosity": -1}
        rows, folds, scaled = every[which, :columns], fold_of[which], weight[which] / weight[which].mean()
        data = lightgbm.Dataset(rows, target[which], weight=scaled, params=options, free_raw_data=False)
        data.construct()
        found = np.zeros(len(rows))
        for fold in range(FOLDS):
            model = boosted(data.subset(np.flatnonzero(folds != fold)), settings)
            found[folds == fold] = model.predict(rows[folds == fold], num_threads=1)
        return found, boosted(data, settings)

    scores, first = both(NUM_FEATURES, FIRST, np.arange(len(every)))
    for at, page in enumerate(pages):
        around(page, every[starts[at] : starts[at + 1]], scores[starts[at] : starts[at + 1]])
    once, scores = scores, scores.copy()
    above = np.flatnonzero(once >= FLOOR)
    print(f"{len(above) / len(once):.3f} of the blocks for the second", file=sys.stderr)
    scores[above], second = both(every.shape[1], SECOND, above)
    for name, each in (("first", once), ("second", scores)):
        loss = -(weight * (target * np.log(each + 1e-9) + (1 - target) * np.log(1 - each + 1e-9))).sum() / weight.sum()
        print(name, "loss", round(float(loss), 4), file=sys.stderr)
    attribute, word = tables(pages)
    cut = [scores[starts[at] : starts[at + 1]] for at in range(len(pages))]
    return {"first": first, "second": second, "attribute": attribute, "word": word, "scores": cut}


def report(pages: list[dict[str, Any]], scores: list[np.ndarray]) -> dict[str, dict[str, float]]:
    """F1 of words by kind of page, as WCXB counts it, by threshold; other sources on their own."""
    out = {}
    for limit in (0.3, 0.4, 0.45, 0.5, 0.6):
        by_kind: dict[str, list[float]] = defaultdict(list)
        for page, score in zip(pages, scores, strict=True):
            texts = page["page"].texts()
            got = words("\n".join(text for text, each in zip(texts, score, strict=True) if each > limit))
            want = words(page["gold"])
            both = sum((Counter(got) & Counter(want)).values())
            f1 = 2 * both / max(len(got) + len(want), 1)
            by_kind[page["kind"] if page["source"] == "wcxb" else page["source"]].append(f1)
            if page["source"] == "wcxb":
                by_kind["wcxb"].append(f1)
        out[str(limit)] = {kind: round(float(np.mean(each)), 4) for kind, each in sorted(by_kind.items())}
        print(limit, out[str(limit)], file=sys.stderr)
    return out


def arrays_of(model: Any) -> dict[str, np.ndarray]:
    """A LightGBM model as `main_content_kernel.score` takes it."""
    roots: list[int] = []
    splits: list[tuple[int, float, list[int]]] = []
    leaves: list[float] = []

    def place(node: dict[str, Any]) -> int:
        if "leaf_value" in node:
            leaves.append(node["leaf_value"])
            return ~(len(leaves) - 1)
        own = len(splits)
        splits.append((node["split_feature"], node["threshold"], [0, 0]))
        splits[own][2][:] = place(node["left_child"]), place(node["right_child"])
        return own

    for tree in model.dump_model()["tree_info"]:
        roots.append(place(tree["tree_structure"]))
    return {
        "roots": np.array(roots, np.int32),
        "features": np.array([split[0] for split in splits], np.int16),
        "thresholds": np.array([split[1] for split in splits], np.float32),
        "children": np.array([split[2] for split in splits], np.int32),
        "leaves": np.array(leaves, np.float32),
    }


def save(out: dict[str, Any], pages: list[dict[str, Any]], threshold: float) -> None:
    """Write `main_content.npz` and the card beside it, into the package."""
    arrays = {"attribute_odds": out["attribute"], "word_odds": out["word"]}
    for name in ("first", "second"):
        arrays.update({f"{name}_{part}": each for part, each in arrays_of(out[name]).items()})
    np.savez_compressed(PACKAGE / "main_content.npz", **arrays)
    card = {
        "made_by": "benchmarks/curate/train_extractor.py",
        "threshold": threshold,
        "pages": dict(Counter(page["source"] for page in pages)),
        "sites": len({page["site"] for page in pages}),
        "blocks": sum(len(page["target"]) for page in pages),
        "dropped": out["dropped"],
        "sources": SOURCES,
        "left_out": "every page of a site that is in scrapinghub/article-extraction-benchmark or trafilatura's "
        "evaldata.json, and every page whose content shares more than 2 % of its 13-grams with them",
        "held_out_by_site": out["figures"],
    }
    (PACKAGE / "main_content.json").write_text(json.dumps(card, indent=1) + "\n")


if __name__ == "__main__":
    main()

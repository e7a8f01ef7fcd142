import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from gyral.config.curation import Dedup
from gyral.curate.near.minhash import MinHash
from gyral.curate.near.pairs import Nodes, Pairs, Settings, find_pairs
from gyral.curate.near.shingle import Shingles
from gyral.curate.near.star import star
from gyral.errors import ConfigError, InputError


def digests_of(texts):
    values = [xxhash.xxh3_128_intdigest(text.encode()) for text in texts]
    return np.array([[value >> 64, value % 2**64] for value in values], np.uint64).reshape(-1, 2)


class Corpus:
    """Distinct texts and what a caller keeps of them."""

    def __init__(self, texts, stage=None):
        self.texts, self.stage, self.asked = list(texts), stage or MinHash(), []

    def nodes(self, batch=1_000):
        for begin in range(0, len(self.texts), batch):
            some = self.texts[begin : begin + batch]
            keys, counts = self.stage.sign(pa.array(some, pa.string()))
            yield Nodes(digests_of(some), keys, counts, np.array([len(text.encode()) for text in some], np.int64))

    def read(self, rows):
        self.asked.append(rows)
        assert (np.diff(rows) > 0).all()
        for begin in range(0, len(rows), 300):
            yield pa.array([self.texts[row] for row in rows[begin : begin + 300]], pa.string())

    def find(self, folder, how=None, batch=1_000):
        return find_pairs(self.nodes(batch), self.read, how or Settings(), folder)

    def decide(self, pairs, threshold=0.8):
        """Longest first, ties by content."""
        digests = digests_of(self.texts)
        sizes = np.array([len(text.encode()) for text in self.texts])
        order = np.lexsort((digests[:, 1], digests[:, 0], -sizes))
        twin, jaccard = star(len(self.texts), pairs, order, np.ones(len(order), bool), threshold)
        return {
            text: (self.texts[to], round(float(j), 6)) for text, to, j in zip(self.texts, twin, jaccard, strict=True) if to >= 0
        }

    def named(self, pairs):
        rows = zip(pairs.a.tolist(), pairs.b.tolist(), pairs.jaccard.tolist(), strict=True)
        return {frozenset((self.texts[a], self.texts[b])): j for a, b, j in rows}


def true_jaccard(one, other, words=5):
    def grams(text):
        tokens = text.split()
        return {tuple(tokens[at : at + words]) for at in range(len(tokens) - words + 1)}

    return len(grams(one) & grams(other)) / len(grams(one) | grams(other))


def variants(seed, families=40, size=6, length=160):
    """Families of texts, of which each is the family's text with some of its words changed."""
    rng, texts = np.random.default_rng(seed), []
    for family in range(families):
        words = [f"f{family}w{number}" for number in range(length + int(rng.integers(0, 40)))]
        for _ in range(size):
            changed = list(words)
            for place in rng.choice(len(words), int(rng.integers(0, 5)), replace=False):
                changed[place] = f"x{rng.integers(1 << 30)}"
            texts.append(" ".join(changed))
    return list(dict.fromkeys(texts))


def test_every_pair_has_its_true_jaccard_and_hardly_one_is_missed(tmp_path):
    corpus = Corpus(variants(1))
    pairs = corpus.find(tmp_path)
    named = corpus.named(pairs)
    truth = {}
    for one in range(len(corpus.texts)):
        for other in range(one):
            first, second = corpus.texts[one], corpus.texts[other]
            if one // 6 - other // 6 < 2:
                truth[frozenset((first, second))] = true_jaccard(first, second)
    for pair, jaccard in named.items():
        assert jaccard == pytest.approx(truth[pair], abs=1e-6)
        assert jaccard >= 0.5
    near = [pair for pair, jaccard in truth.items() if jaccard >= 0.8]
    assert len(near) > 100
    assert sum(pair in named for pair in near) / len(near) > 0.93
    assert (pairs.a < pairs.b).all()
    order = list(zip(pairs.a.tolist(), pairs.b.tolist(), strict=True))
    assert order == sorted(set(order))
    assert pairs.counts["candidates"] == pairs.counts["verified"] == len(named) + pairs.counts["below_floor"]
    assert [len(rows) for rows in corpus.asked] == [pairs.counts["texts_read"]]


@settings(deadline=None, max_examples=12)
@given(st.randoms(use_true_random=False), st.lists(st.integers(0, 200), max_size=3), st.sampled_from([8, 64]))
def test_any_order_and_any_increments_give_the_same_pairs_and_decisions(tmp_path_factory, random, cuts, bucket):
    how = Settings(bucket=bucket)
    texts = variants(2, families=5, size=40, length=200)
    whole = Corpus(texts)
    expected = whole.find(tmp_path_factory.mktemp("whole"), how)
    assert (expected.counts["capped_buckets"] > 0) == (bucket == 8)
    random.shuffle(texts)
    folder = tmp_path_factory.mktemp("parts")
    for cut in [*sorted(cuts), len(texts)]:
        part = Corpus(texts[:cut])
        found = part.find(folder, how, batch=random.randint(1, 90))
    assert part.named(found) == whole.named(expected)
    assert part.decide(found) == whole.decide(expected)
    again = Corpus(texts)
    repeated = again.find(folder, how)
    assert repeated.counts["verified"] == 0
    assert again.asked == []
    assert again.named(repeated) == whole.named(expected)


def test_an_increment_verifies_only_new_pairs(tmp_path):
    texts = variants(3)
    first = Corpus(texts[:-20]).find(tmp_path)
    whole = Corpus(texts)
    second = whole.find(tmp_path)
    assert second.counts["known"] == first.counts["candidates"]
    assert 0 < second.counts["verified"] < first.counts["verified"] / 3
    assert len(whole.asked[0]) < 200
    assert not list(tmp_path.glob(".search*"))
    other = Settings(Shingles(words=4))
    assert Corpus(texts, MinHash(shingle_words=4)).find(tmp_path, other).counts["known"] == 0


def test_the_disk_gives_what_memory_gives(tmp_path):
    corpus = Corpus(variants(4, families=60, size=12))
    kept = corpus.find(tmp_path / "memory")
    spilled = corpus.find(tmp_path / "disk", Settings(memory_bytes=4_096), batch=50)
    for one, other in zip(kept[:3], spilled[:3], strict=True):
        assert np.array_equal(one, other)
    assert kept.counts == spilled.counts


def test_a_chain_is_not_one_cluster(tmp_path):
    """10,000 texts, each sharing most shingles with the next: no removal without a kept twin, and not one survivor."""
    words = [f"w{number}" for number in range(100 + 8 * 10_000)]
    corpus = Corpus(" ".join(words[8 * at : 8 * at + 100]) for at in range(10_000))
    pairs = corpus.find(tmp_path)
    assert pairs.counts["candidates"] < 60_000
    assert true_jaccard(corpus.texts[0], corpus.texts[1]) > 0.8 > true_jaccard(corpus.texts[0], corpus.texts[2])
    removed = corpus.decide(pairs)
    assert 3_500 < len(removed) < 6_700
    assert all(kept not in removed for kept, _ in removed.values())
    for text, (kept, jaccard) in list(removed.items())[::97]:
        assert jaccard == pytest.approx(true_jaccard(text, kept), abs=1e-6)
        assert jaccard >= 0.8


@pytest.mark.slow
def test_boilerplate_costs_a_bounded_number_of_pairs(tmp_path):
    """50,000 texts that share most of their words: a square would be 1.2 billion pairs."""
    rng = np.random.default_rng(5)
    frame = [f"boilerplate{number}" for number in range(100)]
    texts = (
        " ".join(frame + [f"{value:x}" for value in rng.integers(0, 1 << 40, rng.integers(10, 90))]) for _ in range(50_000)
    )
    corpus = Corpus(texts)
    pairs = corpus.find(tmp_path)
    assert pairs.counts["capped_buckets"] >= 1
    assert pairs.counts["candidates"] < 50_000 * 14 * 32 / 2
    removed = corpus.decide(pairs)
    assert all(kept not in removed and jaccard >= 0.8 for kept, jaccard in removed.values())


def test_copies_of_one_page_leave_one_whatever_the_cap(tmp_path):
    """1,000 pages that differ in a number: all buckets are over the cap, and the longest, which is kept, meets each."""
    frame = " ".join(f"common{number}" for number in range(200))
    corpus = Corpus([f"{frame} page {number:04d} of many pages and an end" for number in range(1_000)])
    pairs = corpus.find(tmp_path)
    assert pairs.counts["capped_buckets"] > 0
    assert pairs.counts["candidates"] < 1_000 * 64
    assert len(corpus.decide(pairs)) == 999


def test_short_and_empty_texts(tmp_path):
    corpus = Corpus(["", "a", "A!", "b", "two words", "Two, words?", "!?"])
    named = corpus.named(corpus.find(tmp_path))
    assert named == {frozenset(("a", "A!")): 1.0, frozenset(("two words", "Two, words?")): 1.0}
    nothing = find_pairs(iter(()), corpus.read, Settings(), tmp_path)
    assert len(nothing.a) == len(nothing.jaccard) == 0


def test_too_few_texts_are_an_error(tmp_path):
    corpus = Corpus(variants(6, families=3))
    corpus.read = lambda rows: iter([pa.array(["x"])])
    with pytest.raises(InputError, match="asked for"):
        corpus.find(tmp_path)
    assert not list(tmp_path.glob(".search*"))


def test_settings_come_from_the_configuration():
    how = Settings.of(Dedup(shingle_words=4, floor=0.6, bucket=9))
    assert how == Settings(Shingles(4, 6, ""), 0.6, 9)
    assert how.digest != Settings.of(Dedup(shingle_words=5, floor=0.6)).digest
    assert how.digest == how._replace(memory_bytes=1, bucket=20).digest
    with pytest.raises(ConfigError, match=r"dedup\.floor"):
        Settings.of(Dedup(jaccard=0.4))


def pairs_of(rows):
    a, b, j = zip(*rows, strict=True) if rows else ((), (), ())
    return Pairs(np.array(a, np.int64), np.array(b, np.int64), np.array(j, np.float32))


def test_the_star_keeps_the_best_and_forgives_the_chain():
    pairs = pairs_of([(0, 1, 0.9), (1, 2, 0.85), (2, 3, 0.79), (0, 4, 0.8)])
    alive = np.ones(5, bool)
    twin, jaccard = star(5, pairs, np.arange(5), alive, 0.8)
    assert twin.tolist() == [-1, 0, -1, -1, 0]
    assert jaccard.tolist() == pytest.approx([0, 0.9, 0, 0, 0.8])
    assert star(5, pairs, np.array([1, 0, 2, 3, 4]), alive, 0.8)[0].tolist() == [1, -1, 1, -1, -1]
    alive[0] = False
    assert star(5, pairs, np.arange(5), alive, 0.8)[0].tolist() == [-1, -1, 1, -1, -1]
    assert star(3, pairs_of([]), np.arange(3), np.ones(3, bool), 0.8)[0].tolist() == [-1] * 3


def test_pairs_of_other_nodes_are_refused():
    with pytest.raises(InputError, match="node 5, of 5"):
        star(5, pairs_of([(0, 5, 0.9)]), np.arange(5), np.ones(5, bool), 0.8)


@pytest.mark.parametrize("bucket", [8, 64])
def test_equal_keys_of_one_text_make_no_pair_with_itself(tmp_path, bucket):
    ones = Nodes(np.arange(12, dtype=np.uint64).reshape(6, 2), np.ones((6, 14), np.uint64), np.ones(6, np.int32), np.arange(6))
    pairs = find_pairs([ones], lambda rows: iter([pa.array(["same"] * 6)]), Settings(bucket=bucket), tmp_path)
    assert (pairs.a < pairs.b).all()
    twin, _ = star(6, pairs, np.arange(5, -1, -1), np.ones(6, bool), 0.8)
    assert twin.tolist() == [5] * 5 + [-1]


@given(st.data(), st.integers(1, 14))
@settings(deadline=None)
def test_the_star_is_the_greedy_of_plain_python(data, num):
    possible = [(a, b) for b in range(num) for a in range(b)]
    chosen = data.draw(st.lists(st.sampled_from(possible), unique=True)) if possible else []
    rows = [(a, b, data.draw(st.sampled_from([0.5, 0.79, 0.8, 0.9, 1.0]))) for a, b in chosen]
    order = data.draw(st.permutations(range(num)))
    alive = np.array(data.draw(st.lists(st.booleans(), min_size=num, max_size=num)))
    near = {frozenset((a, b)): np.float32(j) for a, b, j in rows if j >= 0.8}
    kept, expected = [], [-1] * num
    for node in order:
        if alive[node] and not any(frozenset((node, other)) in near for other in kept):
            kept.append(node)
    for node in set(range(num)) - set(kept):
        claims = [(near[frozenset((node, other))], -kept.index(other)) for other in kept if frozenset((node, other)) in near]
        if alive[node]:
            expected[node] = kept[-max(claims)[1]]
    twin, jaccard = star(num, pairs_of(rows), np.array(order), alive, 0.8)
    assert twin.tolist() == expected
    for node in range(num):
        assert jaccard[node] == (near[frozenset((node, expected[node]))] if expected[node] >= 0 else 0)

"""Mixing: shares by temperature, caps that hold, one order for any number of workers, a ledger that adds up."""

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gyral.config.curation import Mix
from gyral.curate.mix import Sampler, fill, mix
from gyral.errors import ConfigError


def documents(seed, count, languages, domains):
    """Codes and sizes, skewed as the web is: few languages and domains have most of it."""
    random = np.random.default_rng(seed)
    language = np.minimum(random.zipf(1.6, count) - 1, languages - 1)
    domain = np.minimum(random.zipf(1.4, count) - 1, domains - 1)
    size_bytes = (random.pareto(1.5, count) * 1_000 + 50).astype(np.int64)
    return language, domain, size_bytes


def names(languages, domains):
    return [f"l{n}" for n in range(languages)], [f"d{n}" for n in range(domains)]


def test_filling_is_the_textbook_loop():
    """Oracle: give by weight, fix those that are full, repeat."""
    random = np.random.default_rng(3)
    for _ in range(300):
        count = int(random.integers(1, 12))
        weights, room = random.random(count) * (random.random(count) > 0.2), random.random(count) * 3
        total = float(random.random() * room.sum())
        want, fixed, left = np.zeros(count), weights == 0, total
        while not fixed.all():
            part = np.where(fixed, 0, weights) / weights[~fixed].sum() * left
            over = ~fixed & (part >= room)
            if not over.any():
                want += part
                break
            want[over], left, fixed = room[over], left - room[over].sum(), fixed | over
        np.testing.assert_allclose(fill(weights, room, total), want, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 400),
    st.floats(1, 8),
    st.integers(1, 6),
    st.floats(0.05, 1),
    st.integers(0, 3_000_000),
)
def test_no_cap_is_ever_passed_and_the_ledger_adds_up(seed, count, temperature, max_epochs, share, target):
    language, domain, size_bytes = documents(seed, count, 6, 20)
    assume(share * len(np.unique(domain)) >= 1)
    by = Mix(target_bytes=target, temperature=temperature, max_epochs=max_epochs, max_domain_share=share, seed=seed)
    made = mix(language, domain, size_bytes, names(6, 20), by)
    assert made.copies.max() <= max_epochs
    drawn = size_bytes * made.copies.astype(np.int64)
    assert np.bincount(domain, drawn).max() <= share * made.planned_bytes * (1 + 1e-6) + 1
    assert drawn.sum() <= made.planned_bytes * (1 + 1e-6) + 1 <= (made.target_bytes + 2) * (1 + 1e-6)
    lines = [line for line in made.ledger if line.kind == "language"]
    assert sum(line.drawn_bytes for line in lines) == drawn.sum()
    assert sum(line.size_bytes for line in lines) == size_bytes.sum()
    assert sum(line.drawn_documents for line in lines) == made.copies.sum()


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_shares_follow_the_temperature(temperature):
    language, domain, size_bytes = documents(1, 50_000, 8, 1_000)
    had = np.bincount(language, size_bytes, 8)
    by = Mix(target_bytes=int(size_bytes.sum() * 0.3), temperature=temperature, max_epochs=255)
    made = mix(language, domain, size_bytes, names(8, 1_000), by)
    got = np.bincount(language, size_bytes * made.copies.astype(np.int64), 8)
    want = had ** (1 / temperature) / (had ** (1 / temperature)).sum() * by.target_bytes
    free = [line.name for line in made.ledger if line.kind == "language" and not line.capped]
    assert len(free) == 8
    largest = np.array([size_bytes[language == each].max() for each in range(8)])
    assert (got <= want + 1).all()
    assert (got > want - largest).all()  # off by less than one document


def test_what_a_capped_language_leaves_goes_to_the_others():
    language = np.repeat([0, 1, 2], [1_000, 1_000, 10])
    size_bytes = np.full(2_010, 100)
    by = Mix(temperature=100.0, max_epochs=3)
    made = mix(language, np.zeros(2_010, int), size_bytes, (["en", "de", "is"], ["x"]), by)
    lines = {line.name: line for line in made.ledger}
    assert (lines["is"].epochs, lines["is"].capped, lines["is"].drawn_bytes) == (3.0, "mix.max_epochs", 3_000)
    assert lines["is"].wanted_bytes > 60_000
    assert lines["en"].capped == lines["de"].capped == ""
    assert sum(line.drawn_bytes for line in made.ledger) == made.target_bytes == 201_000


def test_a_large_domain_is_cut_and_says_so():
    domain = np.concatenate([np.zeros(900, int), np.arange(1, 101)])
    made = mix(
        np.zeros(1_000, int), domain, np.full(1_000, 10), (["en"], [f"d{n}" for n in range(101)]), Mix(max_domain_share=0.2)
    )
    # 100 small domains with at most 4 epochs of 10 bytes: 4,000, which is four fifths of all there can be.
    assert made.planned_bytes == pytest.approx(5_000, abs=2)
    (line,) = [line for line in made.ledger if line.kind == "domain" and line.name == "d0"]
    assert line.capped == "mix.max_domain_share"
    assert 980 <= line.drawn_bytes <= 1_000
    assert line.wanted_bytes > line.drawn_bytes


def test_a_cap_that_cannot_hold_is_an_error():
    with pytest.raises(ConfigError, match="cannot hold"):
        mix(np.zeros(3, int), np.arange(3), np.full(3, 9), (["en"], ["a", "b", "c"]), Mix(max_domain_share=0.2))


def test_nothing_makes_an_empty_mixture():
    none = np.zeros(0, np.int64)
    made = mix(none, none, none, ([], []), Mix())
    assert (len(made.copies), made.planned_bytes, made.ledger) == (0, 0, [])
    assert len(Sampler(made.copies, 0)) == 0


def test_the_same_settings_give_the_same_copies_and_another_seed_others():
    given = documents(5, 2_000, 4, 50)
    by = Mix(target_bytes=int(given[2].sum() // 2))
    first, again = (mix(*given, names(4, 50), by) for _ in range(2))
    other = mix(*given, names(4, 50), msgspec.structs.replace(by, seed=1))
    assert (first.copies == again.copies).all()
    assert (first.copies != other.copies).any()


def test_a_pass_has_every_copy_once():
    copies = np.random.default_rng(0).integers(0, 5, 700)
    sampler = Sampler(copies, 9)
    size = len(sampler)
    for number in range(3):
        drawn = sampler.documents(np.arange(number * size, (number + 1) * size))
        assert (np.bincount(drawn, minlength=700) == copies).all()
    assert (sampler.documents(np.arange(size)) != sampler.documents(np.arange(size, 2 * size))).any()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 900), st.integers(1, 7), st.integers(1, 50))
def test_resuming_anywhere_gives_the_rest_and_workers_share_it_out(start, workers, batch):
    sampler = Sampler(np.random.default_rng(1).integers(0, 4, 200), 4)
    every = sampler.documents(np.arange(1_000))
    parts = {}
    for worker in range(workers):
        got = np.concatenate([*sampler.stream(start, 1_000, worker, workers, batch), np.zeros(0, int)])
        places = [place for place in range(start, 1_000) if place % workers == worker]
        parts.update(zip(places, got.tolist(), strict=True))
    assert [parts[place] for place in range(start, 1_000)] == every[start:].tolist()

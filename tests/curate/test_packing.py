"""Shards of tokens: what goes in comes out at any position, whole documents stay whole, and a killed run goes on."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gyral.config.curation import Tokens
from gyral.curate.packing import PROGRESS, pack, write_shards
from gyral.errors import InputError
from gyral.lake.tokens import MANIFEST, TokenShards, width_bytes
from gyral.model.tokenizer import Encoded

EOS = 7


class FakeTokenizer:
    """Only what the writer asks of a tokenizer."""

    vocab_size = 1_000
    fingerprint = "f" * 64

    def id_of(self, token):
        return EOS

    def save(self, folder):
        (folder / "tokenizer.json").write_text("{}")


def corpus(seed=0, count=400, longest=300):
    random = np.random.default_rng(seed)
    return [random.integers(8, 1_000, random.integers(0, longest)).astype(np.uint32) for _ in range(count)]


def source(documents, batch=17, stop=None):
    """Documents from the first one on, in batches; dies at `stop`."""

    def batches(first):
        for begin in range(first, len(documents), batch):
            if stop is not None and begin + batch > stop:
                raise KeyboardInterrupt
            part = documents[begin : begin + batch]
            yield Encoded(np.concatenate([*part, np.zeros(0, np.uint32)]), np.array([len(each) for each in part]))

    return batches


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


SMALL = Tokens(shard_tokens=5_000, sequence_tokens=64)
PACKED = Tokens(shard_tokens=5_000, sequence_tokens=64, packing="best_fit")


def test_a_stream_comes_out_as_it_went_in(tmp_path):
    documents = corpus()
    manifest = write_shards(tmp_path, source(documents), FakeTokenizer(), SMALL)
    stream = np.concatenate([np.append(each, EOS) for each in documents])
    owner = np.concatenate([np.full(len(each) + 1, number) for number, each in enumerate(documents)])
    shards = TokenShards(tmp_path, verify=True)
    assert shards.num_tokens == manifest.tokens == len(stream)
    assert (manifest.documents, manifest.padding, len(manifest.shards) > 5) == (400, 0, True)
    assert max(shard.tokens for shard in manifest.shards) <= 5_000
    assert shards.manifest.dtype == np.uint16
    random = np.random.default_rng(1)
    for begin, end in np.sort(random.integers(0, len(stream) + 1, (300, 2))):
        assert (shards.tokens(begin, end) == stream[begin:end]).all()
        assert (shards.documents(begin, end) == owner[begin:end]).all()
    length = 33
    total = shards.num_sequences(length)
    assert total == (len(stream) - 1) // length
    tokens, of = shards.sequences(np.array([0, total - 1, 5]), length)
    assert tokens[1].tolist() == stream[(total - 1) * length : total * length + 1].tolist()
    assert tokens[1][0] == shards.sequences(np.array([total - 2]), length)[0][0][-1]
    assert of[2].tolist() == owner[5 * length : 6 * length + 1].tolist()


def test_packed_documents_are_whole_once_and_padding_has_no_document(tmp_path):
    documents = corpus(count=600, longest=150)
    manifest = write_shards(tmp_path, source(documents), FakeTokenizer(), PACKED)
    shards = TokenShards(tmp_path, verify=True)
    tokens, of = shards.sequences(np.arange(len(shards)))
    assert tokens.shape == (len(shards), 65)
    assert (tokens[of == -1] == EOS).all()
    assert (of == -1).sum() == manifest.padding
    assert manifest.padding < 0.03 * manifest.tokens
    cut = 0
    for number, document in enumerate(documents):
        rows = np.flatnonzero((of == number).any(axis=1))
        want = [*document.tolist(), EOS]
        parts = [tokens[row][of[row] == number].tolist() for row in rows]
        assert all(np.diff(np.flatnonzero(of[row] == number)).max(initial=1) == 1 for row in rows)
        assert sorted(token for part in parts for token in part) == sorted(want)
        if len(want) <= 65:
            assert parts == [want]
        else:
            cut += 1
            assert sorted(map(len, parts))[-1] == 65 and len(parts) == -(-len(want) // 65)
    assert manifest.cut_documents == cut > 10


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 40), max_size=60), st.integers(2, 16))
def test_packing_is_best_fit_decreasing(lengths, room):
    """Oracle: look through all open sequences for the one with the least room left that suffices."""
    made = pack(np.array(lengths, int), room)
    open_rooms = []
    whole = sum(length // room for length in lengths)
    for need in sorted((length % room for length in lengths if length % room), reverse=True):
        fits = [place for place, left in enumerate(open_rooms) if left >= need]
        if fits:
            open_rooms[min(fits, key=lambda place: open_rooms[place])] -= need
        else:
            open_rooms.append(room - need)
    assert len(made) == whole + len(open_rooms)
    assert sorted(room - sum(end - begin for _, begin, end in each) for each in made) == sorted([0] * whole + open_rooms)
    pieces = sorted(piece for each in made for piece in each)
    assert [sum(e - b for d, b, e in pieces if d == number) for number in range(len(lengths))] == lengths


@pytest.mark.parametrize("settings_", [SMALL, PACKED], ids=["concatenated", "best_fit"])
def test_batches_do_not_matter_and_a_killed_run_goes_on(tmp_path, settings_):
    documents = corpus(3)
    write_shards(tmp_path / "whole", source(documents, batch=400), FakeTokenizer(), settings_)
    want = files(tmp_path / "whole")
    for number, stop in enumerate((30, 111, 222, 399)):
        folder = tmp_path / str(number)
        with pytest.raises(KeyboardInterrupt):
            write_shards(folder, source(documents, batch=1, stop=stop), FakeTokenizer(), settings_)
        assert not (folder / MANIFEST).exists()
        done = msgspec.json.decode((folder / PROGRESS).read_bytes()) if (folder / PROGRESS).exists() else {"next_document": 0}
        asked = []

        def batches(first, asked=asked):
            asked.append(first)
            return source(documents, batch=5)(first)

        write_shards(folder, batches, FakeTokenizer(), settings_)
        assert asked == [done["next_document"]]
        assert stop - done["next_document"] < 80  # at most one shard of about 33 documents is made again, and what was not read
        assert files(folder) == want


def test_what_is_there_is_not_made_again_and_what_is_of_others_is(tmp_path):
    documents = corpus(4, 100)
    write_shards(tmp_path, source(documents), FakeTokenizer(), SMALL, source="a")
    before = files(tmp_path)

    def never(first):
        raise AssertionError

    write_shards(tmp_path, never, FakeTokenizer(), SMALL, source="a")
    assert files(tmp_path) == before
    write_shards(tmp_path, source(documents[:10]), FakeTokenizer(), SMALL, source="b")
    assert TokenShards(tmp_path, verify=True).manifest.documents == 10
    assert len(list(tmp_path.glob("*.tokens"))) == 1


def test_no_documents_are_no_shards(tmp_path):
    manifest = write_shards(tmp_path, source([]), FakeTokenizer(), SMALL)
    assert (manifest.tokens, manifest.shards) == (0, [])
    assert TokenShards(tmp_path).num_sequences(8) == 0


def test_damage_is_found(tmp_path):
    write_shards(tmp_path, source(corpus(5, 100)), FakeTokenizer(), PACKED)
    path = tmp_path / "00001.tokens"
    body = path.read_bytes()
    path.write_bytes(bytes([body[0] ^ 1]) + body[1:])
    with pytest.raises(InputError, match="not those that were written"):
        TokenShards(tmp_path).verify()
    path.write_bytes(body[:-2])
    with pytest.raises(InputError, match="cannot be used"):
        TokenShards(tmp_path)
    path.unlink()
    with pytest.raises(InputError, match="it is missing"):
        TokenShards(tmp_path)


def test_asking_for_what_is_not_there(tmp_path):
    write_shards(tmp_path, source(corpus(6, 100)), FakeTokenizer(), PACKED)
    shards = TokenShards(tmp_path)
    with pytest.raises(InputError, match="packed to 64, not to 32"):
        shards.num_sequences(32)
    with pytest.raises(InputError, match="no sequence"):
        shards.sequences(np.array([len(shards)]))
    with pytest.raises(InputError, match="cannot be used"):
        TokenShards(tmp_path / "none")


def test_a_token_has_two_bytes_while_all_fit():
    assert (width_bytes(257), width_bytes(65_536), width_bytes(65_537)) == (2, 2, 4)

"""1,024 ranks that are not there: what a rank of a pipeline or of a cut sequence sends in a step is what the formulas say."""

import json
from collections import Counter
from pathlib import Path

import pytest

from ... import verbs

WIDTH, DEPTH, HIDDEN, VOCAB, LENGTH = 64, 8, 192, 264, 32  # of pieces_fake.py
PIPELINE = {"parallel": "pipeline=8,data=16,tensor=8", "batch": 256, "microbatch": 2}
CONTEXT = {"parallel": "data=64,context=16", "batch": 128}
CASES = [{**PIPELINE, "rank": 0}, {**PIPELINE, "rank": 517}, {**PIPELINE, "rank": 1023}, {**CONTEXT, "rank": 1000}]
PASSES = 256 // 16 // 2
STREAM, LOGITS = 4 * 2 * LENGTH * WIDTH, 4 * 2 * LENGTH * VOCAB
BLOCK = (4 * WIDTH * WIDTH + 3 * WIDTH * HIDDEN) // 8 + 2 * WIDTH  # numbers of one block that one of 8 holds
TABLE = VOCAB * WIDTH // 8


@pytest.fixture(scope="module")
def found():
    done = verbs.python(Path(__file__).with_name("pieces_fake.py"), json.dumps(CASES))
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_stage_sends_its_boundaries_and_keeps_its_share(found, number):
    is_first, is_last = number == 0, number == 2
    result = found[number]
    # a block adds twice forward and twice backward over tensor; the embedding once, and the outputs once backward
    compute = Counter({("allreduce_", STREAM, 8): PASSES * (4 + is_first + is_last)})
    boundaries = 1 if is_first or is_last else 2
    compute["send", STREAM, 8] = compute["recv_", STREAM, 8] = PASSES * boundaries
    if is_last:
        compute["allgather_", LOGITS, 8] = PASSES
    assert Counter(tuple(call) for call in result["compute"]) == compute
    held = BLOCK + TABLE * (is_first or is_last) + WIDTH * is_last
    assert result["held"] == held
    reduce = Counter({("allreduce_", 16, 128): 1, ("allreduce_", 4 * held, 16): 1})
    if is_first or is_last:  # the tied table is added between both
        reduce["send", 4 * TABLE, 8] = reduce["recv_", 4 * TABLE, 8] = 1
    assert Counter(tuple(call) for call in result["reduce"]) == reduce


def test_a_stage_has_the_names_of_its_blocks(found):
    assert {name.split(".")[1] for name in found[1]["names"]} == {"4"}  # rank 517 is in the fifth of eight
    assert {name.split(".")[0] for name in found[2]["names"]} == {"blocks", "norm", "logits"}


def test_a_cut_sequence_gathers_keys_and_values_once_a_block(found):
    result = found[3]
    keys_and_values = 4 * 2 * 2 * LENGTH * WIDTH
    expected = Counter({("_allgather_base_", keys_and_values, 16): DEPTH, ("alltoall_base_", keys_and_values, 16): DEPTH})
    expected["_allgather_base_", 8 * 2 * LENGTH, 16] += 1  # whose document each position is of, once a step
    assert Counter(tuple(call) for call in result["compute"]) == expected
    assert result["part"] == [62, 64]
    assert ("allreduce_", 16, 1024) in {tuple(call) for call in result["reduce"]}

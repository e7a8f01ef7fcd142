"""The limits on stored counts: against decisions of datatrove, recorded, and by hand for scripts without spaces."""

import hashlib
import json
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from gyral.config import Config
from gyral.config.curation import C4, FineWeb, Gopher, Quality
from gyral.curate.text.heuristics import limits
from gyral.curate.text.statistics import Statistics

OPS = {"<": np.less, ">": np.greater}
RECORDED = Path(__file__).parent / "datatrove.json"


def reasons(texts, quality=Quality(), names=("",), **columns):  # noqa: B008
    config = Config(quality=quality)
    batch = Statistics.of(config)(pa.record_batch({"text": pa.array(texts, pa.string()), **columns}))
    signals = {name: batch.column(name) for name in batch.schema.names}
    found = [""] * len(texts)
    for limit in limits(quality):
        if limit.reason.startswith(names):
            for row in np.flatnonzero(
                OPS[limit.op](limit.value({name: signals[name] for name in limit.columns}), limit.threshold)
            ):
                found[row] = found[row] or limit.reason
    return found


def sentences(number, words=12, seed=0):
    """Different sentences of common words."""
    chance = np.random.default_rng(seed)
    vocabulary = [*"the of and that with have people water light some great house before under other small".split()]  # noqa: SIM905
    vocabulary += [f"{a}{b}{c}" for a in ("st", "br", "mon") for b in ("o", "a", "i") for c in ("ne", "rk", "ter")]
    return [" ".join(chance.choice(vocabulary, words)).capitalize() + "." for _ in range(number)]


GOOD = "\n\n".join(" ".join(sentences(4, seed=number)) for number in range(6))
LINES = sentences(12, seed=99)
MADE = {
    "good": GOOD,
    "empty": "",
    "blank": " \n ",
    "short": "The house of the people.",
    "paragraphs": "\n\n".join([LINES[0]] * 4 + LINES[1:8]),
    "lines": "\n".join([LINES[0]] * 3 + LINES[1:9]),
    "bigram": GOOD[:300] + " the end" * 40,
    "hashes": " ".join(word + " #" * (place % 5 == 0) for place, word in enumerate(GOOD.split())),
    "ellipses": "\n".join(line + ".." * (place % 2) for place, line in enumerate(LINES)),
    "bullets": "\n".join("- " + line for line in LINES),
    "numbers": " ".join(f"{word} {number}" for number, word in enumerate(GOOD.split())),
    "long words": " ".join(word * 3 + "the" * (place < 0) for place, word in enumerate(GOOD.split())),
    "no stop words": " ".join(f"{word}s" for word in GOOD.replace(".", "").split()),
    "lorem": GOOD + "\n\nHere is Lorem ipsum for you.",
    "curly": GOOD + "\n\nA function f() { return one; } is here.",
    "sentences": GOOD.replace(". ", " and "),
    "no marks": GOOD.replace(".", ""),
    "short lines": "\n".join([*(line[:24] + "." for line in sentences(30, 5, 7)), *LINES[:3]]),
    "list": "\n".join(sentences(40, 3, 5)),
}  # fmt: skip


def test_every_filter_decides_as_datatrove_did():
    """`datatrove.json` has the reasons of its 0.10.1 for the texts of `MADE`, each filter by itself; `record` wrote it."""
    recorded = json.loads(RECORDED.read_text())
    texts = list(MADE.values())
    assert recorded["texts"] == hashlib.sha256("\x00".join(texts).encode()).hexdigest()
    alone, whole = Quality(), Quality(c4=C4(enabled=False))
    repetition = ("gopher_empty", "gopher_dup", "gopher_top")
    quality = tuple(
        {limit.reason for limit in limits(alone) if limit.reason.startswith("gopher_")} - _starting(alone, repetition)
    )
    found = {
        "gopher_repetition": reasons(texts, alone, repetition),
        "gopher_quality": reasons(texts, alone, quality),
        "c4": reasons(texts, alone, ("c4_",)),
        "fineweb": reasons(texts, whole, ("fineweb_",)),
        "pipeline": reasons(texts, alone),
    }
    for name, told in recorded["reasons"].items():
        mine = [_plain(reason) for reason in found[name]]
        told = [_plain(reason) for reason in told]
        differ = {key: (a, b) for key, a, b in zip(MADE, told, mine, strict=True) if a != b}
        assert differ == {}, name
    assert sum(reason != "" for told in recorded["reasons"].values() for reason in told) > 25


def _starting(quality, names):
    return {limit.reason for limit in limits(quality) if limit.reason.startswith(names)}


def _plain(reason):
    reason = reason.removeprefix("gopher_").removeprefix("c4_").removeprefix("fineweb_")
    return {"enough_stop_words": "few_stop_words"}.get(reason, reason)


def test_a_text_without_spaces_is_not_dropped_for_what_only_words_have():
    japanese = "これは水です。人々は大きな家に住んでいます。川の近くには古い橋があり、子供たちが毎日そこで遊びます。"
    japanese += "春になると桜が咲き、町はとても静かで美しくなります。祖父は朝早く起きて庭の花に水をやり、新聞を読みます。"
    thai = "บ้านหลังนี้อยู่ใกล้แม่น้ำและมีต้นไม้ใหญ่ เด็กๆชอบเล่นน้ำในตอนเย็น แม่ทำอาหารเช้าให้ทุกคนในครอบครัว "
    thai += "พ่อขับรถไปทำงานที่เมืองทุกวัน "
    thai += "ตลาดมีผักสดและผลไม้หลายชนิด คุณยายเล่าเรื่องเก่าให้หลานฟัง"
    korean = (
        "저는 집에 가서 밥을 먹고 책을 읽었다. 강의 물은 산과 들을 지나 바다로 흘러 간다. 아이들은 학교에서 친구와 함께 노래를 "
    )
    korean += (
        "배우고 그림을 그린다. 할머니는 시장에서 사과와 배를 사서 돌아왔다. 오늘은 비가 온다. 나는 우산을 들고 길을 걷는다. "
    )
    korean += "동생은 창가에 앉아 눈을 기다린다. 밤에는 별이 많고 달도 밝다. 우리는 차를 마시며 긴 이야기를 나누었다."
    languages = pa.array(["ja", "th", "ko"])
    quality = Quality(gopher=Gopher(top_n_grams=(), dup_n_grams=(), min_words=30), stop_words={"ja": ["は"], "th": ["ที่"]})
    assert reasons([japanese, thai, korean], quality, language=languages) == ["", "", ""]
    assert reasons([japanese, thai], quality) == ["", ""]
    assert reasons(["あ" * 60, "字字字字字字字。" * 10], quality) == ["c4_too_few_sentences", ""]
    assert reasons(["あ" * 60]) == ["gopher_top_2_gram"]


def test_rules_of_another_language_go_by_its_own_stop_words():
    german = (
        GOOD.replace("the", "der")
        .replace(" of ", " von ")
        .replace(" and ", " und ")
        .replace(" that ", " das ")
        .replace("with", "mit")
    )
    german = german.replace("have", "haben").replace("The", "Der").replace(" to ", " zu ")
    quality = Quality(stop_words={"de": ["der", "und"]})
    assert reasons([german] * 3, quality, language=["de", "en", None]) == ["", "gopher_few_stop_words", ""]
    assert reasons([GOOD], quality, language=["de"]) == ["gopher_few_stop_words"]


def test_thresholds_are_those_of_the_settings():
    words = len(GOOD.replace(".", " .").split()) - GOOD.count(".")
    assert reasons([GOOD], Quality(gopher=Gopher(min_words=words))) == [""]
    assert reasons([GOOD], Quality(gopher=Gopher(min_words=words + 1))) == ["gopher_short_doc"]
    assert reasons([GOOD], Quality(gopher=Gopher(max_words=words - 1))) == ["gopher_long_doc"]
    assert reasons([GOOD], Quality(gopher=Gopher(dup_n_grams=((10, 0.0),), top_n_grams=((2, 0.001),)))) == ["gopher_top_2_gram"]
    assert reasons([GOOD], Quality(c4=C4(min_num_sentences=25))) == ["c4_too_few_sentences"]
    assert reasons([GOOD], Quality(fineweb=FineWeb(new_line_ratio=0.001))) == ["fineweb_list_ratio"]
    marks = MADE["no marks"]
    assert reasons([marks], Quality(fineweb=FineWeb(line_punct_exclude_zero=True))) == [""]
    assert reasons([MADE["curly"]], Quality(c4=C4(filter_curly_bracket=False))) == [""]


def test_rule_sets_can_be_switched_off():
    off = Quality(gopher=Gopher(enabled=False), c4=C4(enabled=False), fineweb=FineWeb(enabled=False))
    assert limits(off) == [] and set(reasons(list(MADE.values()), off)) == {""}
    only = Quality(gopher=Gopher(enabled=False), c4=C4(enabled=False))
    assert {limit.reason.partition("_")[0] for limit in limits(only)} == {"fineweb"}
    zero = Gopher(min_words=0, dup_line_frac=0, max_symbol_word_ratio=0, min_stop_words=0)
    left = {limit.reason for limit in limits(Quality(gopher=zero))}
    gone = {"short_doc", "dup_line_frac", "too_many_hashes", "too_many_ellipsis", "few_stop_words"}
    assert {limit.reason for limit in limits(Quality())} - left == {f"gopher_{name}" for name in gone}


def test_every_rule_is_a_setting_and_every_column_a_count():
    signals = Statistics()(pa.record_batch({"text": ["a"]}))
    for limit in limits(Quality()):
        setting = Config()
        for name in limit.rule.split("."):
            setting = getattr(setting, name)
        assert set(limit.columns) <= set(signals.schema.names), limit.reason
    assert len({limit.reason for limit in limits(Quality())}) == len(limits(Quality())) == 32


def test_no_text_is_not_dropped():
    assert reasons([None, GOOD]) == ["", ""]


def test_a_million_texts_are_decided_anew_in_a_second():
    batch = Statistics()(pa.record_batch({"text": [GOOD, MADE["numbers"]]}))
    signals = {name: pa.concat_arrays([batch.column(name)] * 500_000) for name in batch.schema.names if name.startswith("num_")}
    start = time.process_time()
    dropped = np.zeros(1_000_000, bool)
    for limit in limits(Quality()):
        dropped |= OPS[limit.op](limit.value(signals), limit.threshold)
    assert time.process_time() - start < 2  # 0.3 to 0.6 measured
    assert dropped.sum() == 500_000


def record(python):
    """Write `datatrove.json` by the Python of an environment with `datatrove[processing]==0.10.1` and spaCy."""
    import subprocess

    texts = list(MADE.values())
    code = """
import json, sys
from datatrove.data import Document
from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
filters = {"gopher_repetition": GopherRepetitionFilter(), "gopher_quality": GopherQualityFilter(),
    "c4": C4QualityFilter(filter_no_terminal_punct=False), "fineweb": FineWebQualityFilter()}
def reason(filter, doc):
    result = filter.filter(doc)
    return "" if result is True else result[1]
texts = json.load(sys.stdin)
of = {name: [reason(each, Document(text=text, id="0")) for text in texts] for name, each in filters.items()}
of["pipeline"] = []
for text in texts:
    doc = Document(text=text, id="0")
    of["pipeline"].append(next((found for each in filters.values() if (found := reason(each, doc))), ""))
print(json.dumps(of))
"""
    done = subprocess.run([python, "-c", code], input=json.dumps(texts), capture_output=True, text=True, check=True)
    told = {"texts": hashlib.sha256("\x00".join(texts).encode()).hexdigest(), "reasons": json.loads(done.stdout)}
    RECORDED.write_text(json.dumps(told, indent=1) + "\n")

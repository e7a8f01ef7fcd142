"""Every count of a text in plain Python, with regular expressions: what the kernels are tested against."""

import re
import unicodedata
from collections import Counter

from gyral.curate.text.characters import TERMINAL, UNIT, UNMARKED, WIDE, table
from gyral.curate.text.special import pieces
from gyral.curate.text.statistics import _UNITS

PIECES = pieces()
BITS = table()
PUNCT = "…,:;!?¿؟¡()[]{}<>_#*&。？！，、；：～·।،۔؛٪"
QUOTES = "'\"”“`‘´’‚,„»«「」『』（）〔〕【】《》〈〉〈〉⟦⟧"
CURRENCY = "$£€¥฿₽﷼₴₠₡₢₣₤₥₦₧₨₩₪₫₭₮₯₰₱₲₳₵₶₷₸₹₺₻₼₾₿"
SYMBOLS = "!/—”:％１〈&(、━\\【#%「」，】；+^]~“《„';’{|∶´[=-`*．（–？！：$～«〉,><》)?）。…@_.\"}►»"
UNIT_NAMES = set(_UNITS.split())


def is_(text, bit):
    return all(int(BITS[min(ord(char), 0x4E00) if ord(char) >= len(BITS) else ord(char)]) & bit for char in text)


def category(char):
    """Unicode's; beyond the second plane all is taken for Han."""
    return unicodedata.category(char) if ord(char) < len(BITS) else "Lo"


def letter(char):
    return category(char)[0] == "L"


def lower(char):
    return letter(char) and category(char) != "Lu"


def upper(char):
    return letter(char) and category(char) != "Ll"


def icon(char):
    return category(char) == "So"


def digit(char):
    return char in "0123456789" and char != ""


def prefix(chunk):
    if chunk[0] in PUNCT + QUOTES + CURRENCY + "§%=—–" or icon(chunk[0]):
        return 1
    found = re.match(r"\.\.+|\+(?![0-9])|US\$|C\$|A\$", chunk)
    return found.end() if found else 0


def suffix(chunk):
    if not chunk:
        return 0
    if chunk[-1] in PUNCT + QUOTES + "—–" or icon(chunk[-1]):
        return 1
    found = re.search(r"\.\.+$|(?:'|’)[sS]$|(?<=[0-9])[+%]$|(?<=[0-9])[" + re.escape(CURRENCY) + "]$", chunk)
    if found:
        return found.end() - found.start()
    if chunk[-1] == "." and len(chunk) > 1:
        before = chunk[-2]
        if digit(before) or lower(before) or before in "%²-+" + PUNCT + QUOTES:
            return 1
        return 1 if upper(before) and len(chunk) > 2 and upper(chunk[-3]) else 0
    found = re.search(r"(?<=[0-9])[^0-9]{1,5}$", chunk)
    return len(found.group()) if found and found.group() in UNIT_NAMES and len(found.group().encode()) <= 5 else 0


def infixes(chunk):
    at, found = 0, []
    while at < len(chunk):
        char, before, after = chunk[at], chunk[at - 1 : at], chunk[at + 1 : at + 2]
        width = 0
        run = re.match(r"\.\.+|…", chunk[at:])
        joined = bool(before) and (letter(before) or digit(before))
        hyphens = re.match(r"-{1,3}|—{1,2}|[–~]", chunk[at:])
        if run:
            width = run.end()
        elif (
            icon(char)
            or (char == "." and before and after and (lower(before) or before in QUOTES) and (upper(after) or after in QUOTES))
            or (char == "," and before and after and letter(before) and letter(after))
            or (char in ":<>=/" and joined and after and letter(after))
            or (char in "+-*^" and digit(before) and after and (digit(after) or after == "-"))
        ):
            width = 1
        elif hyphens and joined and chunk[at + hyphens.end() :][:1] and letter(chunk[at + hyphens.end()]):
            width = hyphens.end()
        if width and at > 0:
            found.append((at, at + width))
        at += max(width, 1)
    return found


HOST = re.compile(
    r"(?:[A-Za-z0-9\u0080-\U0010ffff](?:[A-Za-z0-9\u0080-\U0010ffff_-]*[A-Za-z0-9\u0080-\U0010ffff])?\.)+"
    r"(?:[a-z\u0080-\U0010ffff]{2,}|[\u0080-\U0010ffff])(?::[0-9]*)?(?:[/?#].*)?$",
    re.DOTALL,
)


def address(chunk):
    starts = [0]
    scheme = chunk.find("://")
    if len(chunk[: max(scheme, 0)].encode()) >= 2:
        starts.append(scheme + 3)
    ats = [at for at, char in enumerate(chunk) if char == "@" and at > 0]
    starts += [ats[0] + 1, ats[-1] + 1] if ats else []
    return any(HOST.match(chunk, start) for start in starts)


def words_of_chunk(chunk):
    if is_some(chunk, UNIT):
        return unspaced(chunk)
    fronts, backs = [], []
    while chunk and chunk not in PIECES:
        front = prefix(chunk)
        if front and chunk[front:] in PIECES:
            fronts.append(chunk[:front])
            chunk = chunk[front:]
            break
        back = suffix(chunk[front:])
        if back and chunk[:-back] in PIECES:
            backs.append(chunk[-back:])
            chunk = chunk[:-back]
            break
        if not front and not back:
            break
        if front:
            fronts.append(chunk[:front])
        if back:
            backs.append(chunk[-back:])
        chunk = chunk[front : len(chunk) - back]
    if chunk in PIECES:
        core = list(PIECES[chunk])
    else:
        core, start = [], 0
        for begin, end in [] if address(chunk) else infixes(chunk):
            core += [chunk[start:begin], chunk[begin:end]]
            start = end
        core.append(chunk[start:])
    return [word for word in [*fronts, *core, *reversed(backs)] if word]


def is_some(text, bit):
    return any(is_(char, bit) for char in text)


def unspaced(chunk):
    found = []
    for char in chunk:
        kind = "unit" if is_(char, UNIT) else "mark" if category(char)[0] == "M" else "other"
        if kind == "other" and (letter(char) or category(char) == "Nd"):
            kind = "letter"
        if found and (
            (kind == "mark" and found[-1][1] != "other") or (kind == "letter" and found[-1][1] in ("letter", "mark"))
        ):
            found[-1] = (found[-1][0] + char, found[-1][1])
        else:
            found.append((char, kind))
    return [word for word, _ in found]


def words_of(text):
    return [word for chunk in text.split() for word in words_of_chunk(chunk)]


def symbol(char):
    code = ord(char)
    controls = code < 9 or 11 <= code < 32 or 127 <= code < 160
    return char in SYMBOLS or is_(char, TERMINAL) or controls


def sentences(line):
    count, seen = 1, False
    for word in words_of(line):
        if len(word) == 1 and is_(word, TERMINAL):
            seen = True
        elif seen and not all(category(char)[0] == "P" for char in word):
            count, seen = count + 1, False
    return count


def repeats(elements):
    met, number, chars = set(), 0, 0
    for element in elements:
        if element in met:
            number, chars = number + 1, chars + len(element)
        met.add(element)
    return number, chars


def duplicated(words, n):
    met, chars, at = set(), 0, 0
    while at < len(words) - n + 1:
        gram = tuple(words[at : at + n])
        if gram in met:
            chars, at = chars + len("".join(gram)), at + n
        else:
            met.add(gram)
            at += 1
    return chars


POLICY = ["terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies"]
CITATION = re.compile(r"\[[0-9]*]|\[edit]|\[citation needed]")


def plain_lower(text):
    return "".join(char.lower() if char.isascii() else char for char in text)


def c4(text, stage, counts):
    """The lines that are left, and the counts of C4."""
    left, last = [], True
    cuts = []
    at = 0
    for whole in text.splitlines(keepends=True):
        line, begin, at = whole.strip(), at, at + len(whole.encode())
        if not line:
            if not last:
                cuts[-1][1] = at
            continue
        chunks = line.split()
        number = sum(max(sum(is_(char, UNIT) for char in chunk), 1) for chunk in chunks)
        longest = max(sum(not is_(char, UNIT) for char in chunk) for chunk in chunks)
        clean = CITATION.sub("", line) if stage.remove_citations else line
        low, cut = plain_lower(clean), ""
        closed = bool(clean) and (clean[-1] in "\"'" or is_(clean[-1], TERMINAL)) and not clean.endswith("...")
        if stage.max_word_length >= 0 and longest > stage.max_word_length:
            cut = "num_long_word_lines"
        elif stage.filter_no_terminal_punct and not closed:
            cut = "num_open_lines"
        elif number < stage.min_words_per_line:
            cut = "num_few_word_lines"
        else:
            counts["num_lorem_ipsum_lines"] += "lorem ipsum" in low
            if stage.filter_javascript and "javascript" in low:
                cut = "num_javascript_lines"
            else:
                counts["num_curly_lines"] += "{" in clean
                if stage.filter_policy and any(phrase in low for phrase in POLICY):
                    cut = "num_policy_lines"
        last = not cut
        if cut:
            counts[cut] += 1
            if cuts and cuts[-1][1] == begin:
                cuts[-1][1] = at
            else:
                cuts.append([begin, at])
        else:
            counts["num_sentences"] += sentences(clean)
            left.append(clean)
    return left, [place for cut in cuts for place in cut]


def statistics(text, stage, stop_words):
    """All counts, and the cuts."""
    counts = Counter()
    words = words_of(text)
    counts["num_chars"], counts["num_words"] = len(text), len(words)
    counts["num_symbol_words"] = sum(all(map(symbol, word)) for word in words)
    counts["num_alpha_words"] = sum(any(map(letter, word)) for word in words)
    long = [word for word in words if not all(map(symbol, word)) and not is_some(word, UNIT)]
    counts["num_word_chars"] = sum(len(word) * (2 if is_(word, WIDE) else 1) for word in long)
    counts["num_unit_words"] = sum(is_(word[0], UNIT) for word in words)
    counts["num_unmarked_words"] = sum(is_(word[0], UNMARKED) for word in words)
    counts["num_stop_words"] = len(set(stop_words) & set(words))
    counts["num_hashes"], counts["num_ellipses"] = text.count("#"), text.count("...") + text.count("…")
    lines = text.splitlines()
    counts["num_lines"] = len(lines)
    counts["num_bullet_lines"] = sum(line.lstrip().startswith(("•", "-")) for line in lines)
    counts["num_ellipsis_lines"] = sum(line.rstrip().endswith(("...", "…")) for line in lines)
    left, cuts = c4(text, stage, counts) if stage.cut_lines else (text.split("\n"), [])
    counts["num_left_breaks"] = max(len(left) - 1, 0)
    counts["num_left_chars"] = sum(map(len, left))
    counts["num_left_words"] = sum(len(words_of(line)) for line in left)
    left = [line for line in left if line.strip()]
    counts["num_left_lines"] = len(left)
    counts["num_left_terminal_lines"] = sum(is_(line[-1], TERMINAL) for line in left)
    columns = [len(line) + sum(is_(char, WIDE) for char in line) for line in left]
    counts["num_left_short_lines"] = sum(width <= stage.short_line_length for width in columns)
    counts["num_left_duplicate_chars"] = repeats(left)[1]
    lines = re.split("\n+", text)
    counts["num_text_lines"] = len(lines)
    counts["num_duplicate_lines"], counts["num_duplicate_line_chars"] = repeats(lines)
    paragraphs = re.split(r"\n{2,}", text.strip())
    counts["num_paragraphs"] = len(paragraphs)
    counts["num_duplicate_paragraphs"], counts["num_duplicate_paragraph_chars"] = repeats(paragraphs)
    for n in (2, 3, 4):
        grams = Counter(tuple(words[at : at + n]) for at in range(len(words) - n + 1))
        if grams:
            gram, number = grams.most_common(1)[0]
            counts[f"num_top_{n}_gram_chars"] = len(" ".join(gram)) * number
    for n in range(5, 11):
        counts[f"num_duplicate_{n}_gram_chars"] = duplicated(words, n)
    return counts, cuts

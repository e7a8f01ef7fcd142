"""Chunks of English that are cut otherwise than by punctuation: contractions, abbreviations, hours, faces.

They are those of spaCy's English tokenizer, which is the one that datatrove's rules count words with, so that counts agree;
written as stems and endings, because that is what they are. Faces beyond the common ones, which stand for one word in
ten thousand at most, are left out.
"""

from __future__ import annotations

from collections.abc import Iterator

_PERSONS = "he i it she they we you"
_ASKING = "how that there these this those what when where who why"
_VERBS = "ca could did does do had may might must need ought sha should wo would"
_MODALS = "could might must should would"
_ENDINGS = {
    "n't": f"{_VERBS} ai are dare has have is was were",
    "n't 've": _VERBS,
    "'ve": f"i they we you how there these those what when where who why not {_MODALS}",
    "'d": f"{_PERSONS} {_ASKING}",
    "'d 've": f"{_PERSONS} {_ASKING}",
    "'ll": f"{_PERSONS} {_ASKING}",
    "'ll 've": f"{_PERSONS} {_ASKING}",
    "'s": "he it she how that there this what when where who why let",
    "'re": "they we you how there these those what when where who why",
    "'m": "i",
    "'m a": "i",
}
"""Ending in one or two pieces → stems that take it; with a capital as well; without the apostrophe too, but for `_OTHER`."""
_OTHER = {"ill", "hell", "shell", "shed", "well", "its", "were", "whore", "lets"}
"""What is another word without its apostrophe."""
_CUT = "can|not gon|na got|ta c'm|on y'|all y|all how|'d|'y"
_WHOLE = """
a.m. p.m. e.g. i.e. E.G. E.g. I.E. I.e. v.s. vs. co. and/or w/o C++ ma'am Ma'am o'clock O'clock ' '' 's 'S 'd 'll 're 'em 'nuff
'bout 'Cause 'Cos 'Coz 'Cuz 'cause 'cos 'coz 'cuz ‘s ‘S ä. ö. ü. \\n \\t \\")
doin' goin' nothin' nuthin' ol' somethin' lovin' havin' Doin' Goin' Nothin' Nuthin' Ol' Somethin' Lovin' Havin'
Mt. Ak. Ala. Apr. Ariz. Ark. Aug. Calif. Colo. Conn. Dec. Del. Feb. Fla. Ga. Ia. Id. Ill. Ind. Jan. Jul. Jun. Kan. Kans. Ky. La.
Mar. Mass. Mich. Minn. Miss. N.C. N.D. N.H. N.J. N.M. N.Y. Neb. Nebr. Nev. Nov. Oct. Okla. Ore. Pa. S.C. Sep. Sept. Tenn. Va.
Wash. Wis. Adm. Bros. Co. Corp. D.C. Dr. Gen. Gov. Inc. Jr. Ltd. Md. Messrs. Mo. Mont. Mr. Mrs. Ms. Ph.D. Prof. Rep. Rev.
Sen. St. :) :( :)) :(( :-) :-( :D :-D :P :-P :p :-p :/ :-/ :O :-O :o :-o :x :X :-x :-X :| :-| :* :-* :0 :1 :3
:> :] :} ;) ;-) ;D ;-D (:
(; (= ): =) =( =D =/ =3 =[ =] =| ]= [= [: 8) 8-) 8D 8-D xD XD <3 </3 <33 >.< >.> <.< ^_^ -_- o_o O_O o.o O.o o.O
O.O O_o o_O 0.0 0.o
0_0 :'( :')
"""


def _cuts() -> Iterator[str]:
    for ending, stems in _ENDINGS.items():
        for stem in stems.split():
            for word in (stem, stem.title()):
                pieces = [word, *ending.split()]
                yield "|".join(pieces)
                plain = [piece.replace("'", "") for piece in pieces]
                if "".join(plain).lower() not in _OTHER:
                    yield "|".join(plain)
    yield from (f"{hour}|{half}" for hour in range(1, 13) for half in ("a.m.", "am", "p.m.", "pm"))
    for cut in _CUT.split():
        yield cut
        yield cut[0].upper() + cut[1:] if cut[0] != "y" else cut


def pieces() -> dict[str, tuple[str, ...]]:
    """Every such chunk → the words that it is."""
    cuts = [tuple(cut.split("|")) for cut in _cuts()]
    cuts += [(chunk,) for chunk in (*_WHOLE.split(), *(f"{letter}." for letter in "abcdefghijklmnopqrstuvwxyz"))]
    cuts += [tuple(piece.replace("'", "’") for piece in cut) for cut in cuts]
    return {"".join(cut): cut for cut in cuts}

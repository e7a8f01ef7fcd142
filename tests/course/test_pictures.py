"""The loop over pictures and captions, as a process: which of the new pictures is a caption of?"""

import numpy as np
import pytest

from gyral.lake.table import Lake

from .. import verbs

cv2 = pytest.importorskip("cv2")
COLOURS = {
    "red": (40, 40, 220),
    "green": (60, 200, 60),
    "blue": (220, 80, 40),
    "yellow": (40, 220, 230),
    "white": (240, 240, 240),
}
FORMS = ("disc", "box", "cross", "bar", "ring", "corner")
SETS = [
    "vision.side=16", "vision.patch=4", "vision.depth=1", "vision.width=32", "vision.heads=2", "vision.embed=32",
    "vision.caption_width=32", "vision.concept=name", "train.batch=12", "train.steps=120", "train.optim.rate=3e-3",
    "vision.jitter=0", "curate.stages=['repair', 'digest', 'pixels']", "train.keep=last", "images.min_side=0",
    "images.min_entropy=0", "images.min_blur=0", "dedup.near=false",
]  # fmt: skip


def drawn(form, colour, size):
    picture = np.full((32, 32, 3), 20, np.uint8)
    middle = (16, 16)
    if form == "disc":
        cv2.circle(picture, middle, size, colour, -1)
    elif form == "ring":
        cv2.circle(picture, middle, size, colour, 3)
    elif form == "box":
        cv2.rectangle(picture, (16 - size, 16 - size), (16 + size, 16 + size), colour, -1)
    elif form == "cross":
        cv2.line(picture, (16 - size, 16), (16 + size, 16), colour, 3)
        cv2.line(picture, (16, 16 - size), (16, 16 + size), colour, 3)
    elif form == "bar":
        cv2.line(picture, (16 - size, 16), (16 + size, 16), colour, 5)
    else:
        cv2.rectangle(picture, (2, 2), (2 + size, 2 + size), colour, -1)
    return picture


@pytest.mark.slow
def test_new_pictures_are_found_by_words_and_what_was_chosen_becomes_a_caption(tmp_path):
    folder = tmp_path / "shapes"
    folder.mkdir()
    for form in FORMS:
        for colour, value in COLOURS.items():
            for size in (6, 9, 12):
                name = f"{form}-{colour}-{size}"
                cv2.imwrite(str(folder / f"{name}.png"), drawn(form, value, size))
                (folder / f"{name}.txt").write_text(
                    f"{colour} {form} {'small' if size == 6 else 'large' if size == 12 else ''}"
                )
    sets = [word for each in SETS for word in ("--set", each)]
    words = ["loop", "--family", "vision", "--source", folder, "--turns", 2, *sets, "--root", tmp_path]
    result = verbs.result(*words, timeout=290)
    last = result["turns"][-1]
    assert last["metric"] == "r_at_1" and last["baseline"] == "chance" and last["num_asked"] >= 15
    assert last["scores"]["looped"] > 3 * last["scores"]["chance"]
    rows = Lake(tmp_path).snapshot("events").read(["kind", "object"]).to_pylist()
    kinds = {kind: sum(row["kind"] == kind for row in rows) for kind in ("document", "search", "feedback_chosen", "shown")}
    asked = sum(row["num_asked"] for row in result["turns"])
    assert kinds["search"] == 2 * asked and kinds["feedback_chosen"] == asked and kinds["shown"] >= 4


def test_pictures_that_nobody_can_be_asked_about_are_told_before_anything_is_learned(tmp_path):
    folder = tmp_path / "shapes"
    folder.mkdir()
    for form in FORMS:
        for colour, value in COLOURS.items():
            cv2.imwrite(str(folder / f"{form}-{colour}.png"), drawn(form, value, 9))

    def looped(*more):
        sets = [word for each in (*SETS, *more) for word in ("--set", each)]
        return verbs.gyral("loop", "--family", "vision", "--source", folder, "--turns", 2, *sets, "--root", tmp_path)

    done = looped()
    assert done.returncode == 1 and "`shapes` has no captions, by which a loop could ask" in done.stderr, done.stderr
    done = looped("train.task=masked")
    assert done.returncode == 2 and "a model of the task `masked` knows no captions" in done.stderr, done.stderr
    assert not (tmp_path / "models").exists()

"""Pictures of folders, tar files and packages of emoji, with their captions; and what somebody may put there instead."""

import gzip
import io
import json
import random
import resource
import tarfile
import time

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gyral.curate.readers import BATCH_BYTES, File, emoji, open_place
from gyral.curate.readers.pictures import cut, find, read
from gyral.curate.readers.rows import in_batches
from gyral.curate.stage import DOCUMENT


def picture(value):
    return cv2.imencode(".png", np.full((8, 8, 3), value, np.uint8))[1].tobytes()


RED, BLUE, GREEN = picture((0, 0, 200)), picture((200, 0, 0)), picture((0, 200, 0))


def put(root, files):
    for path, data in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data if isinstance(data, bytes) else data.encode())


def listed(root):
    paths = [path for path in root.rglob("*") if path.is_file()]
    random.shuffle(paths)
    return [File(path.relative_to(root).as_posix(), path.stat().st_size, "") for path in paths]


def rows(root):
    found = [batch for part in find(root, listed(root)) for batch in read(part)]
    assert all(batch.schema == DOCUMENT for batch in found)
    every = [row for batch in found for row in batch.to_pylist()]
    assert all(row["media"] == "image" for row in every)
    return every


def told(every):
    return [(row["file"], row["raw"], row["text"], row["rejected"]) for row in every]


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_captions_of_an_image_folder(tmp_path, form):
    about = [
        {"file_name": "a.png", "text": "A red one, “quoted”,\nin two lines"},
        {"file_name": "sub/b.JPG", "text": "blue"},
        {"file_name": "../outside.png", "text": "nothing of yours"},
        {"file_name": "none.png", "text": "not there"},
    ]
    path = tmp_path / "train" / f"metadata.{form}"
    put(
        tmp_path,
        {"train/a.png": RED, "train/sub/b.JPG": BLUE, "train/c.png": GREEN, "other/d.png": GREEN, "train/readme.md": "x"},
    )
    if form == "csv":
        path.write_text("file_name,text\n" + "".join('{file_name},"{text}"\n'.format(**row) for row in about))
    elif form == "jsonl":
        path.write_text("{broken\n\n" + "".join(json.dumps(row) + "\n" for row in about))
    else:
        pq.write_table(pa.Table.from_pylist(about), path)
    every = rows(tmp_path)
    assert told(every) == [
        ("other/d.png", GREEN, None, None),
        ("train/a.png", RED, "A red one, “quoted”,\nin two lines", None),
        ("train/c.png", GREEN, None, None),
        ("train/sub/b.JPG", BLUE, "blue", None),
    ]
    assert [row["domain"] for row in every] == ["other", "train", "train", "train"]
    assert [row["offset"] for row in every] == [-1] * 4


def test_a_picture_with_several_captions_is_several_rows(tmp_path):
    lines = [
        {"file_name": "a.png", "caption": "one"},
        {"file_name": "a.png", "caption": ["two", " ", "three"]},
        {"file_name": "b.png", "caption": 7},
    ]
    put(tmp_path, {"a.png": RED, "b.png": BLUE, "metadata.jsonl": "\n".join(map(json.dumps, lines))})
    every = rows(tmp_path)
    assert told(every) == [*(("a.png", RED, text, None) for text in ("one", "two", "three")), ("b.png", BLUE, None, None)]
    assert [row["offset"] for row in every] == [0, 1, 2, -1]


def test_side_files_and_the_nearest_metadata(tmp_path):
    put(
        tmp_path,
        {
            "a.png": RED,
            "a.txt": b"\xef\xbb\xbf from the side \xff\n",
            "b.png": BLUE,
            "b.txt": "loses",
            "deep/c.png": GREEN,
            "alone.txt": "no picture's",
            "metadata.csv": "file_name,text\nb.png,wins\ndeep/c.png,too far\n",
            "deep/metadata.csv": "file_name,text\nc.png,near\n",
        },
    )
    assert [(row["file"], row["text"]) for row in rows(tmp_path)] == [
        ("a.png", "from the side �"),
        ("b.png", "wins"),
        ("deep/c.png", "near"),
    ]


def test_what_cannot_be_read_is_a_row_with_its_reason(tmp_path, monkeypatch):
    put(tmp_path, {"a.png": RED, "b.png": b"x" * 2000, "metadata.parquet": b"PAR1 not"})
    files = [*listed(tmp_path), File("gone.png", 10, "")]
    monkeypatch.setattr("gyral.curate.readers.pictures.MAX_PICTURE_BYTES", 1000)
    every = [row for part in find(tmp_path, files) for batch in read(part) for row in batch.to_pylist()]
    assert {(row["file"], row["rejected"]) for row in every} == {
        ("a.png", None),
        ("b.png", "too_large"),
        ("gone.png", "unreadable_file"),
        ("metadata.parquet", "corrupt_record"),
    }


def test_parts_do_not_depend_on_the_order_of_the_list_and_most_stay_when_a_file_is_added(tmp_path):
    files = [File(f"{number % 7}/{number:05d}.jpg", 100_000 + number % 977, "s") for number in range(5_000)]
    parts = find(tmp_path, files)
    assert sorted(file.path for part in parts for file in part.files) == sorted(file.path for file in files)
    assert 5 < len(parts) < 60
    assert find(tmp_path, files[::-1]) == parts
    more = find(tmp_path, [*files, File("3/00000a.jpg", 50, "s")])
    assert len(set(map(repr, parts)) - set(map(repr, more))) == 1


def test_a_cut_comes_at_the_latest_after_four_parts():
    files = [File(f"{number}", 10, "") for number in range(1_000)]
    assert max(sum(file.size_bytes for file in some) for some in cut(files, 100)) <= 400


def test_batches_are_bounded(tmp_path):
    put(tmp_path, {f"{number}.png": bytes(3 << 20) for number in range(8)})
    sizes = [batch.nbytes for part in find(tmp_path, listed(tmp_path)) for batch in read(part)]
    assert 2 <= len(sizes) <= 4 and max(sizes) <= BATCH_BYTES + 4096
    assert list(in_batches([])) == []


SAMPLES = {
    "shard/001.jpg": RED,
    "shard/001.json": json.dumps({"caption": "of the json", "url": "https://www.example.org/x"}).encode(),
    "shard/001.txt": b" of the text\n",
    "shard/002.seg.png": BLUE,
    "shard/002.JPEG": GREEN,
    "shard/002.json": json.dumps({"captions": ["one", "two"]}).encode(),
    "shard/003.txt": b"the picture was never fetched",
    "shard/004.png": BLUE,
    "index.html": b"<html>",
    "shard/005.webp": RED,
    "shard/005.json": b"{broken",
    f"shard/{'long' * 60}.png": GREEN,
    f"shard/{'long' * 60}.txt": "länger".encode(),
}


def shard(samples, form=tarfile.GNU_FORMAT):
    into = io.BytesIO()
    with tarfile.open(fileobj=into, mode="w", format=form) as archive:
        for name, data in samples.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return into.getvalue()


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("packed", [False, True])
def test_samples_of_a_shard(tmp_path, form, packed):
    samples = dict(SAMPLES)
    if form == tarfile.USTAR_FORMAT:
        samples = {name.replace("long" * 60, "/".join(["long" * 20] * 2)): data for name, data in samples.items()}
    data = shard(samples, form)
    put(tmp_path, {"a/b.tar.gz" if packed else "a/b.tar": gzip.compress(data) if packed else data})
    every = rows(tmp_path)
    assert [(row["raw"], row["text"], row["rejected"]) for row in every] == [
        (RED, "of the text", None),
        (GREEN, "one", None),
        (GREEN, "two", None),
        (None, "the picture was never fetched", "no_picture"),
        (BLUE, None, None),
        (RED, None, None),
        (GREEN, "länger", None),
    ]
    assert every[0]["url"] == "https://www.example.org/x" and every[0]["domain"] == "example.org"
    assert [row["domain"] for row in every[1:]] == ["a"] * 6
    places = [row["offset"] for row in every]
    assert len(set(places)) == len(places)
    for row in every:
        if row["text"] != "two":
            assert data[row["offset"] + 257 : row["offset"] + 262] == b"ustar"


def test_traversal_links_devices_and_folders_are_labels_or_nothing(tmp_path):
    into = io.BytesIO()
    with tarfile.open(fileobj=into, mode="w") as archive:
        for kind, name in (
            (tarfile.SYMTYPE, "a.png"),
            (tarfile.LNKTYPE, "b.png"),
            (tarfile.CHRTYPE, "c.png"),
            (tarfile.DIRTYPE, "d.png"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        for name in ("../../evil.png", "/root/evil.png"):
            info = tarfile.TarInfo(name)
            info.size = len(RED)
            archive.addfile(info, io.BytesIO(RED))
    put(tmp_path, {"x.tar": into.getvalue()})
    assert told(rows(tmp_path)) == [("x.tar", RED, None, None)] * 2
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar"]


def test_a_damaged_header_costs_one_sample(tmp_path):
    data = bytearray(shard({f"{number:03d}.png": RED for number in range(10)}))
    place = data.index(b"004.png")
    data[place : place + 3] = b"???"
    put(tmp_path, {"x.tar": bytes(data)})
    every = rows(tmp_path)
    assert [row["rejected"] for row in every] == [None] * 4 + ["corrupt_record"] + [None] * 5
    assert every[4]["offset"] == place


@pytest.mark.parametrize("packed", [False, True])
def test_a_shard_that_ends_early_gives_what_was_there(tmp_path, packed):
    noise = np.random.default_rng(0)
    data = shard({f"{number:03d}.png": RED + noise.bytes(5_000) for number in range(10)})
    data = data[: data.index(b"006.png") + 2_000]
    whole = gzip.compress(data + bytes(3_000))
    put(tmp_path, {"x.tar.gz" if packed else "x.tar": whole[:-1500] if packed else data})
    every = rows(tmp_path)
    assert [row["rejected"] for row in every] in ([None] * 6 + ["corrupt_record"], [None] * 5 + ["corrupt_record"])
    put(tmp_path, {"x.tar.gz" if packed else "x.tar": b"\x1f\x8b nothing of the kind" * 90})
    assert {row["rejected"] for row in rows(tmp_path)} == {"corrupt_record"}


def header(name, size):
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


def test_members_that_claim_too_much(tmp_path):
    put(
        tmp_path,
        {
            "a.tar": header("a.png", 1 << 70) + RED,
            "b.tar": header("b.png", 1 << 40) + RED,
            "c.tar": header("c.png", 100 << 20) + bytes(100 << 20) + shard({"d.png": RED}),
        },
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert [(row["file"], row["raw"], row["rejected"]) for row in rows(tmp_path)] == [
        ("a.tar", None, "too_large"),
        ("b.tar", None, "corrupt_record"),
        ("c.tar", None, "too_large"),
        ("c.tar", RED, None),
    ]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_a_packed_bomb_is_read_no_further_than_its_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("gyral.curate.readers.tar.MAX_UNPACKED", 8 << 20)
    pieces = [header("a.png", len(RED)) + RED + bytes(-len(RED) % 512), header("b.bin", 1 << 30)]
    with gzip.open(tmp_path / "x.tgz", "wb", 1) as into:
        into.writelines(pieces)
        for _ in range(64):
            into.write(bytes(1 << 20))
    start = time.process_time()
    assert [(row["raw"], row["rejected"]) for row in rows(tmp_path)] == [(RED, None), (None, "too_large")]
    assert time.process_time() - start < 0.5


def test_nothing_that_a_shard_can_hold_raises(tmp_path):
    noise, data = random.Random(0), shard(SAMPLES)
    for number in range(150):
        damaged = bytearray(data[: noise.randrange(len(data))])
        for _ in range(8):
            damaged[noise.randrange(len(damaged) or 1) : 0] = bytes([noise.randrange(256)]) * noise.choice((0, 1, 1, 512))
        ending = noise.choice((".tar", ".tgz"))
        (tmp_path / f"{number}{ending}").write_bytes(gzip.compress(damaged) if ending == ".tgz" else damaged)
    every = rows(tmp_path)
    assert {row["rejected"] for row in every} <= {None, "corrupt_record", "no_picture", "too_large"}
    assert sum(row["rejected"] is None for row in every) > 150


def emoji_package(root):
    concepts = [
        {"unified": "2764-FE0F", "image": "2764-fe0f.png", "name": "HEAVY BLACK HEART", "short_name": "heart"},
        {"unified": "1F385", "image": "1f385.png", "name": None, "skin_variations": {"1F3FB": {"image": "1f385-1f3fb.png"}}},
        {"unified": "1F1E9-1F1EA", "image": "1f1e9-1f1ea.png", "name": "Germany Flag"},
        {"unified": "odd", "image": "odd.png", "name": "ODD ONE"},
    ]
    names = {"❤": {"default": ["love"], "tts": ["red heart"]}, "🎅": {"tts": ["Santa"]}, "🐈": {"tts": ["cat"]}, "x": {}}
    german = {"❤": {"tts": ["rotes Herz"]}, "🎅": {"tts": ["↑↑↑"]}}
    pictures = ("2764-fe0f", "1f385", "1f385-1f3fb", "1f1e9-1f1ea", "odd")
    put(
        root,
        {
            **{f"twitter/img/twitter/64/{name}.png": RED for name in pictures},
            "twitter/img/twitter/sheets/64.png": BLUE,
            "twitter/emoji.json": json.dumps(concepts),
            **{
                f"cldr/annotations/{locale}/annotations.json": json.dumps({"annotations": {"identity": {}, **inner}})
                for locale, inner in (
                    ("en", {"annotations": names}),
                    ("de-CH", {"annotations": german}),
                    ("und", {}),
                )
            },
        },
    )


def test_emoji_have_a_row_for_every_language_that_names_them(tmp_path):
    emoji_package(tmp_path)
    every = rows(tmp_path)
    found = [(row["file"].rpartition("/")[2], row["offset"], row["declared"], row["text"]) for row in every]
    assert found == [
        ("1f1e9-1f1ea.png", 0, "en", "germany flag"),
        ("1f385-1f3fb.png", -1, None, None),
        ("1f385.png", 0, "en", "Santa"),
        ("2764-fe0f.png", 0, "de", "rotes Herz"),
        ("2764-fe0f.png", 1, "en", "red heart"),
        ("odd.png", 0, "en", "odd one"),
    ]
    assert {row["raw"] for row in every} == {RED} and {row["domain"] for row in every} == {"twitter"}


def test_names_of_emoji_may_be_another_source(tmp_path):
    emoji_package(tmp_path / "together")
    put(tmp_path, {"names/old/keep.txt": ""})
    (tmp_path / "together" / "cldr").rename(tmp_path / "names" / "cldr")
    folder, other = tmp_path / "together" / "twitter", tmp_path / "names"
    alone = [row for part in find(folder, listed(folder)) for batch in read(part) for row in batch.to_pylist()]
    parts = open_place(f"{folder} {other}", tmp_path, print, "pairs").parts
    joined = [row for part in parts for batch in read(part) for row in batch.to_pylist()]
    assert [row["text"] for row in alone] == ["germany flag", None, None, "heavy black heart", "odd one"]
    assert [row["text"] for row in joined] == ["germany flag", None, "Santa", "rotes Herz", "red heart", "odd one"]
    assert {row["rejected"] for row in joined} == {None}


def test_emoji_without_names_have_their_english_ones_and_damaged_files_are_counted(tmp_path):
    emoji_package(tmp_path)
    put(tmp_path, {"cldr/annotations/en/annotations.json": "[]", "cldr/annotations/de-CH/annotations.json": "{"})
    emoji._names.cache_clear()
    every = rows(tmp_path)
    assert [row["text"] for row in every if row["rejected"] is None] == [
        "germany flag",
        None,
        None,
        "heavy black heart",
        "odd one",
    ]
    assert [row["file"] for row in every if row["rejected"]] == [
        f"cldr/annotations/{locale}/annotations.json" for locale in ("de-CH", "en")
    ]
    put(tmp_path, {"twitter/emoji.json": "{}"})
    assert [row["rejected"] for row in rows(tmp_path)] == ["corrupt_record"]

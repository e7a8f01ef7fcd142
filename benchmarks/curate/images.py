"""Pictures: hashes a CPU second, how near they are to imagehash's, what counts as a near-duplicate, a million hashes searched.

- speed: JPEG (and PNG) of 900 × 675, read from files. gyral runs its whole stage: header, digest, reduced decode, blur,
  entropy, brightness, hash, thumbnail, as an Arrow batch, with its default and with `decoded_side=64`. Peers compute the hash
  alone: PIL + imagehash as documented; the same with `draft`, which asks libjpeg for a smaller grey picture, as somebody would
  do who knows it; Daft's `image_hash`.
- agreement: Hamming distance of the 64-bit hashes of the same files, gyral's to imagehash's; and from the same 32 × 32 pixels.
- near-duplicates: every picture changed in eleven ways; recall of gyral's search with its defaults against phash of imagehash
  within 8 and 10 bits and nothing more. False: emoji of one style that would be removed for another of 1,906 concepts (those
  that differ by less than 1 level in the mean, as some flags, are counted by themselves), and pairs of different photographs.
- search: `find_pairs` of a million random hashes with 1 % planted pairs.

Data: the pictures of four Debian packages of desktop wallpapers, photographs and some drawings, three disjoint parts of each
reduced to 900 × 675 and coded with quality 90 by OpenCV: so they were JPEG before, and 0.6 megapixels is no chance. Emoji from
npm. CPU seconds of the process, all threads, of the second pass over all pictures; in turn, medians. Caveat: imports and
compiling are not counted.
Command: .venv/bin/python benchmarks/curate/images.py (about three minutes at rest; fetches 290 MB once)
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import PYTHON, peer, write

from gyral.packages.fetch import cache_folder, fetch

DEBIAN = ("lomiri-wallpapers-16.04", "lomiri-wallpapers-20.04", "gnome-backgrounds", "plasma-workspace-wallpapers")
EMOJI = "npm:emoji-datasource-twitter@16.0.0"
ROUNDS, WIDTH, HEIGHT, NUM_PNG, BITS = 3, 900, 675, 60, (8, 10)

SPEED = """
import json, sys, time
from pathlib import Path
kind, paths = sys.argv[1], sorted(Path(sys.argv[2]).iterdir())
if kind.startswith("gyral"):
    import pyarrow as pa
    from gyral.curate.images.pixels import Pixels
    from gyral.curate.stage import DOCUMENT
    def run(paths):
        rows = [{"file": p.name, "offset": -1, "media": "image", "raw": p.read_bytes()} for p in paths]
        found = Pixels(decoded_side=64 if kind == "gyral_64" else 128)(pa.RecordBatch.from_pylist(rows, schema=DOCUMENT))
        assert found.column("image_hash").null_count == 0
        return found.column("image_hash").to_pylist()
elif kind == "daft":
    import daft
    from daft.functions import decode_image, image_hash
    def run(paths):
        df = daft.from_pydict({"raw": [p.read_bytes() for p in paths]})
        df = df.select(image_hash(decode_image(df["raw"]), method="phash").alias("hash"))
        return [int.from_bytes(each, "big") for each in df.to_pydict()["hash"]]
else:
    import imagehash
    from PIL import Image
    def run(paths):
        hashes = []
        for path in paths:
            picture = Image.open(path)
            if kind == "draft":
                picture.draft("L", (128, 128))
            hashes.append(int(str(imagehash.phash(picture)), 16))
        return hashes
run(paths)
start = time.process_time()
hashes = run(paths)
print(json.dumps({"rate": len(paths) / (time.process_time() - start), "hashes": hashes}), flush=True)
if kind == "daft":
    import os
    os._exit(0)  # once its threads aborted at the end, with the answer already given
"""

SAME = """
import json, sys
import numpy as np, imagehash
from PIL import Image
small = np.load(sys.argv[1])
print(json.dumps([int(str(imagehash.phash(Image.fromarray(each))), 16) for each in small]))
"""

PHASH = """
import json, sys
from pathlib import Path
import imagehash
from PIL import Image
def flat(path):
    picture = Image.open(path)
    if picture.mode in ("P", "RGBA", "LA"):  # imagehash leaves alpha to its user
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return int(str(imagehash.phash(picture)), 16)
print(json.dumps([flat(path) for path in json.loads(Path(sys.argv[1]).read_text())]))
"""

SEARCH = """
import json, resource, sys, time
import numpy as np
from gyral.curate.images.near_images import find_pairs
num, bits = int(sys.argv[1]), int(sys.argv[2])
random = np.random.default_rng(0)
hashes = random.integers(0, 2**64, num, dtype=np.uint64)
thumbnails = random.integers(0, 256, (num, 384), dtype=np.uint8)
planted = num // 100
for _ in range(3):
    hashes[:planted] = hashes[:planted] ^ np.uint64(1) << random.integers(0, 64, planted, dtype=np.uint64)
hashes[planted:2 * planted] = hashes[:planted] ^ np.uint64(5)
thumbnails[planted:2 * planted] = thumbnails[:planted]
find_pairs(hashes[:1000], thumbnails[:1000], max_distance=bits)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.process_time()
pairs = find_pairs(hashes, thumbnails, max_distance=bits)
used = time.process_time() - start
more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
print(json.dumps({"cpu_s": used, "pairs": len(pairs.a), "planted": planted, "skipped": pairs.skipped, "more_mib": more}))
"""


def main() -> None:
    folder = cache_folder() / "benchmarks" / "pictures"
    sources = make_pictures(folder)
    pythons = {
        "gyral": PYTHON,
        "gyral_64": PYTHON,
        "imagehash": peer("curate-imagehash", ["imagehash==4.3.2", "pillow==13.0.0"]),
        "daft": peer("curate-daft", ["daft==0.7.26"]),
    }
    pythons["draft"] = pythons["imagehash"]
    speed: dict[str, Any] = {}
    hashes: dict[str, list[int]] = {}
    for form in ("jpg", "png"):
        rates: dict[str, list[float]] = {name: [] for name in pythons if (form, name) != ("png", "draft")}
        for _ in range(ROUNDS):
            for name in rates:
                told = call(pythons[name], SPEED, name, folder / form)
                rates[name].append(round(told["rate"], 1))
                if form == "jpg":
                    hashes[name] = told["hashes"]
        median = {name: statistics.median(every) for name, every in rates.items()}
        ratios = {name: round(median["gyral"] / median[name], 2) for name in median if name != "gyral"}
        files = list((folder / form).iterdir())
        size = sum(path.stat().st_size for path in files) // len(files)
        speed[form] = {"pictures": len(files), "mean_bytes": size, "per_cpu_s": median, "all": rates, "gyral_to": ratios}
    search = [call(PYTHON, SEARCH, 1_000_000, bits) for bits in (6, *BITS)]
    write(
        "curate_images",
        {
            "width": WIDTH,
            "height": HEIGHT,
            "sources": sources,
            "speed": speed,
            "agreement": agreement(folder, hashes, pythons["imagehash"]),
            "near": near(folder, pythons["imagehash"]),
            "search": dict(zip(("6", *map(str, BITS)), search, strict=True)),
        },
    )


def call(python: str, code: str, *arguments: object) -> Any:
    done = subprocess.run([python, "-c", code, *map(str, arguments)], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def make_pictures(folder: Path) -> int:
    """Write the JPEG and PNG files, once; how many pictures they are parts of."""
    import cv2

    done = folder / "done.json"
    if done.exists():
        return int(json.loads(done.read_text())["sources"])
    debian = folder / "debian"
    debian.mkdir(parents=True, exist_ok=True)
    for name in DEBIAN:
        package = fetch(f"apt:{name}", lambda text: print(text, file=sys.stderr))
        subprocess.run(["dpkg-deb", "-x", package.path, debian], check=True)
    for form in ("jpg", "png"):
        (folder / form).mkdir(parents=True, exist_ok=True)
    paths = sorted(path for path in debian.rglob("*") if path.suffix in (".jpg", ".png", ".webp") and path.is_file())
    seen: set[str] = set()
    number = 0
    for path in paths:
        # A wallpaper lies there in several sizes and a dark form.
        key = str(path).partition("/contents/")[0]
        picture = cv2.imread(str(path)) if key not in seen and "dark" not in str(path) else None
        if picture is None or min(picture.shape[:2]) < HEIGHT or path.stat().st_size < 100_000:
            continue
        seen.add(key)
        for part in parts(picture):
            cv2.imwrite(str(folder / "jpg" / f"{number:03d}.jpg"), part, [cv2.IMWRITE_JPEG_QUALITY, 90])
            if number % 3 == 0 and number < 3 * NUM_PNG:
                cv2.imwrite(str(folder / "png" / f"{number:03d}.png"), part)
            number += 1
    with tarfile.open(fetch(EMOJI, lambda text: print(text, file=sys.stderr)).path) as archive:
        archive.extractall(folder / "emoji", [each for each in archive if "/64/" in each.name], filter="data")
    done.write_text(json.dumps({"sources": len(seen)}))
    return len(seen)


def parts(picture: Any) -> list[Any]:
    """Three disjoint parts of 4 : 3."""
    import cv2

    height, width = picture.shape[:2]
    found = []
    for third in range(3):
        if width >= height:
            part = picture[:, third * width // 3 : (third + 1) * width // 3]
        else:
            part = picture[third * height // 3 : (third + 1) * height // 3]
        high, wide = part.shape[:2]
        part = part[:, : high * 4 // 3] if wide * 3 > high * 4 else part[: wide * 3 // 4]
        found.append(cv2.resize(part, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA))
    return found


def agreement(folder: Path, hashes: dict[str, list[int]], python: str) -> dict[str, Any]:
    """Bits in which hashes of the same files differ from imagehash's; and those of the same 32 × 32 pixels."""
    import cv2
    import numpy as np

    from gyral.curate.images.hash_kernel import phash

    small = np.array(
        [
            cv2.resize(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), (32, 32), interpolation=cv2.INTER_AREA)
            for path in sorted((folder / "jpg").iterdir())
        ]
    )
    place = folder / "small.npy"
    np.save(place, small)
    same = [int(phash(each)) ^ told for each, told in zip(small, call(python, SAME, place), strict=True)]
    result: dict[str, Any] = {"same_pixels_max": max(each.bit_count() for each in same)}
    for name in ("gyral", "gyral_64", "draft", "daft"):
        bits = [(one ^ two).bit_count() for one, two in zip(hashes[name], hashes["imagehash"], strict=True)]
        result[name] = {"mean": round(statistics.mean(bits), 2), "median": statistics.median(bits), "max": max(bits)}
    return result


def variants(picture: Any) -> dict[str, bytes]:
    """A picture, changed in ways that leave it the same picture."""
    import cv2
    import numpy as np

    def jpeg(picture: Any, quality: int = 85) -> bytes:
        return bytes(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1])

    def sized(factor: float) -> bytes:
        how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
        return jpeg(cv2.resize(picture, None, fx=factor, fy=factor, interpolation=how), 80)

    high, wide = picture.shape[:2]
    y, x = int(high * 0.025), int(wide * 0.025)
    gamma = (255 * (np.arange(256) / 255) ** 0.8).astype(np.uint8)
    return {
        "quality 30": jpeg(picture, 30),
        "webp": bytes(cv2.imencode(".webp", picture, [cv2.IMWRITE_WEBP_QUALITY, 75])[1]),
        "png": bytes(cv2.imencode(".png", picture)[1]),
        "half size": sized(0.5),
        "quarter size": sized(0.25),
        "one and a half size": sized(1.5),
        "5 % cropped, 2.5 % each side": jpeg(picture[y : high - y, x : wide - x]),
        "5 % cropped, one corner": jpeg(picture[2 * y :, 2 * x :]),
        "25 levels brighter": jpeg(cv2.convertScaleAbs(picture, alpha=1, beta=25)),
        "0.8 of the light": jpeg(cv2.convertScaleAbs(picture, alpha=0.8, beta=0)),
        "gamma 0.8": jpeg(cv2.LUT(picture, gamma)),
    }


def near(folder: Path, python: str) -> dict[str, Any]:
    """Recall by kind of change, and pairs found among pictures that differ."""
    import cv2

    from gyral.config import Config

    limits = Config().images
    originals = sorted((folder / "jpg").iterdir())
    changed = folder / "changed"
    changed.mkdir(exist_ok=True)
    files: list[Path] = list(originals)
    kinds = [""] * len(originals)
    of = list(range(len(originals)))
    for number, path in enumerate(originals):
        for place, (kind, raw) in enumerate(variants(cv2.imread(str(path))).items()):
            file = changed / f"{number:03d}-{place}"
            file.write_bytes(raw)
            files.append(file)
            kinds.append(kind)
            of.append(number)
    found, looks = pairs_of(files, limits)
    every = {"gyral": found, **{f"imagehash_{bits}": pairs for bits, pairs in phash_pairs(files, python).items()}}
    # A picture of one colour, or nearly so, is dropped before anybody asks for its duplicates.
    shown = {n for n in range(len(originals)) if looks[n].blur >= limits.min_blur and looks[n].entropy >= limits.min_entropy}
    recall = {}
    for kind in sorted(set(kinds) - {""}):
        these = [n for n in range(len(files)) if kinds[n] == kind and of[n] in shown]
        recall[kind] = {
            "pictures": len(these),
            **{name: round(sum((of[n], n) in pairs for n in these) / len(these), 3) for name, pairs in every.items()},
        }
    mean = {name: round(statistics.mean(each[name] for each in recall.values()), 3) for name in every}
    num = len(originals)
    different = {
        "photographs": {
            "pictures": len(shown),
            **{
                name: names(files, [(a, b) for a, b in pairs if b < num and a in shown and b in shown])
                for name, pairs in every.items()
            },
        },
        "emoji": emoji(folder, python, limits),
    }
    return {"bits": limits.near_bits, "recall": recall, "mean_recall": mean, "different": different}


def names(files: list[Path], pairs: list[tuple[int, int]]) -> list[str]:
    return [f"{files[a].name} {files[b].name}" for a, b in pairs]


def pairs_of(files: list[Path], limits: Any) -> tuple[set[tuple[int, int]], list[Any]]:
    """Near-duplicates by gyral's defaults."""
    import numpy as np

    from gyral.curate.images.headers import read_header
    from gyral.curate.images.near_images import find_pairs
    from gyral.curate.images.pixels import decode, look

    looks = [look(decode(raw, read_header(raw), 128)) for raw in (path.read_bytes() for path in files)]
    found = find_pairs(
        np.array([each.image_hash for each in looks], np.uint64),
        np.array([np.frombuffer(each.thumbnail, np.uint8) for each in looks]),
        max_distance=limits.near_bits,
        min_likeness=limits.near_likeness,
        max_colour=limits.near_colour,
    )
    return {(min(a, b), max(a, b)) for a, b in zip(found.a.tolist(), found.b.tolist(), strict=True)}, looks


def phash_pairs(files: list[Path], python: str) -> dict[int, set[tuple[int, int]]]:
    """Pairs by imagehash alone, within each of the distances."""
    import numpy as np

    listed = cache_folder() / "benchmarks" / "pictures" / "files.json"
    listed.write_text(json.dumps([str(path) for path in files]))
    hashes = np.array(call(python, PHASH, listed), np.uint64)
    pairs: dict[int, set[tuple[int, int]]] = {bits: set() for bits in BITS}
    for a in range(len(hashes)):
        distances = np.bitwise_count(hashes[a + 1 :] ^ hashes[a])
        for bits in BITS:
            pairs[bits].update((a, a + 1 + int(b)) for b in np.flatnonzero(distances <= bits))
    return pairs


def emoji(folder: Path, python: str, limits: Any) -> dict[str, Any]:
    """Pairs among concepts of one style: all are false, but those whose pictures are the same."""
    import cv2
    import numpy as np

    tones = {"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"}
    files = [path for path in sorted((folder / "emoji").rglob("*.png")) if not tones & set(path.stem.split("-"))]
    pictures = []
    for path in files:
        picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(float)
        alpha = picture[:, :, 3:] / 255
        pictures.append(picture[:, :, :3] * alpha + 255 * (1 - alpha))

    def removed(pairs: set[tuple[int, int]]) -> dict[str, int]:
        """Pictures with an earlier one that is the same, and others that only were taken for it."""
        same = {b for a, b in pairs if np.abs(pictures[a] - pictures[b]).mean() < 1}
        return {"the_same": len(same), "different": len({b for _, b in pairs} - same)}

    theirs = {f"imagehash_{bits}": removed(pairs) for bits, pairs in phash_pairs(files, python).items()}
    return {"pictures": len(files), "gyral": removed(pairs_of(files, limits)[0]), **theirs}


if __name__ == "__main__":
    main()

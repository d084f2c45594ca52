"""Classify images with the shipped model: LiteRT, NumPy and Pillow, nothing else.

    python classify.py photo.jpg folder ...    # what is said of each photo, or why nothing
    python classify.py --clip frame_1.jpg frame_2.jpg ...    # frames of one clip, one answer
    python classify.py                  # the golden vectors: decisions and probabilities to show

Exit codes: 0 done, 1 a photo could not be read or a golden vector differs, 2 wrong input.
`verify` in the folder above holds the letterbox and the decisions; this adds decoding and words.
Pixels are what they were in training: turned as EXIF says or left as they are stored, what is
transparent on black, of 16 bits the high byte.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

FOLDER = Path(__file__).resolve().parents[2]
PHOTOS = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".avif"}
sys.path.insert(0, str(FOLDER))

import verify  # noqa: E402


def read_image(path: str, config: dict) -> np.ndarray:
    """Decode RGB bytes [H, W, 3] as the config says."""
    exif = config["preprocessing"]["exif"]
    with Image.open(path) as stored:
        image = ImageOps.exif_transpose(stored) if exif == "apply" else stored
        if image.mode.startswith("I"):
            return grey_of_16_bits(np.asarray(image), image.info.get("transparency"))
        if "A" in image.mode or "transparency" in image.info:
            return on_black(np.asarray(image.convert("RGBA")).astype(np.uint16))
        return np.asarray(image.convert("RGB"))


def grey_of_16_bits(grey: np.ndarray, transparent: object) -> np.ndarray:
    high = (grey >> 8).astype(np.uint8)
    if isinstance(transparent, int):
        high[grey == transparent] = 0
    return np.repeat(high[:, :, None], 3, axis=2)


def on_black(rgba: np.ndarray) -> np.ndarray:
    return ((rgba[:, :, :3] * rgba[:, :, 3:] + 127) // 255).astype(np.uint8)


def main(words: list[str] | None = None) -> int:
    options = parser().parse_args(words)
    config = json.loads((FOLDER / verify.CONFIG).read_text(encoding="utf-8"))
    if not options.photos:
        return check_golden(config)
    if missing := [str(place) for place in options.photos if not place.exists()]:
        say(f"error: {missing[0]} does not exist. Give photos or folders of photos", sys.stderr)
        return 2
    interpreter = verify.open_model((FOLDER / config["model"]["file"]).read_bytes())
    table = verify.input_table(config["input"])
    frames, unread = [], 0
    for path in photos(options.photos):
        try:
            pixels = read_image(path, config)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            unread += 1
            say(f"{path}: cannot be read ({error})", sys.stderr)
            continue
        square = verify.letterbox(pixels, config["input"]["width"])
        frames.append(verify.run_model(interpreter, table[square]))
        if not options.clip:
            say(f"{path}: {in_words(frames[-1], config)}")
    if frames and options.clip:
        say(f"{len(frames)} frames: {in_words(verify.pool(np.array(frames)), config)}")
    return int(unread > 0 or not frames)


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        description="Classify photos with the shipped model; without any, check the golden vectors."
    )
    found.add_argument("photos", nargs="*", type=Path, help="photos, or folders of them")
    found.add_argument("--clip", action="store_true", help="frames of one clip: one answer")
    return found


def photos(places: list[Path]) -> Iterator[Path]:
    """Yield the files that were named, and the photos of folders at any depth."""
    for place in places:
        inside = sorted(place.rglob("*")) if place.is_dir() else [place]
        yield from (one for one in inside if one == place or one.suffix.lower() in PHOTOS)


def say(text: str, stream: object = None) -> None:
    """Print names as they are where they can be printed, and as escapes where not."""
    shown = "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
    (stream or sys.stdout).write(f"{shown}\n")


def in_words(raw: np.ndarray, config: dict) -> str:
    """Say what the app shows, how probable it is, and where nothing is shown, what came nearest."""
    shown, names = verify.shown_probabilities(raw[None], config)[0], config["labels"]
    labels = verify.decide(raw[None], config)[0]
    if labels:
        return ", ".join(f"{name} {shown[names.index(name)]:.0%}" for name in labels)
    best = int(shown.argmax())
    nearest = f"most likely {names[best]} {shown[best]:.0%}"
    if config["task"] == "single_label":
        sure = verify.probabilities(raw[None], config).max()
        needed = config["thresholds"]["unknown_below"]
        return f"unknown ({nearest}; {sure:.0%} sure, an answer needs {needed:.0%})"
    return f"none of the classes ({nearest})"


def check_golden(config: dict) -> int:
    """Compare decisions and probabilities of the recorded outputs with the recording."""
    recorded = json.loads((FOLDER / verify.VECTORS).read_text(encoding="utf-8"))
    vectors, wrong = recorded["vectors"], 0
    clip = verify.pool(np.array([vector["raw"] for vector in vectors], config["output"]["dtype"]))
    wrong += clip.tolist() != recorded["pooled"]["raw"]
    for vector in [*vectors, recorded["pooled"]]:
        raw = np.array([vector["raw"]], config["output"]["dtype"])
        shown = verify.shown_probabilities(raw, config)[0]
        same = verify.decide(raw, config)[0] == vector["decisions"]
        wrong += not (same and np.abs(shown - vector["probabilities"]).max() < 1e-9)
    sys.stdout.write(f"{len(vectors)} images and their clip, {wrong} differ\n")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())

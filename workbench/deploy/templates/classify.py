"""Classify images with the shipped model: LiteRT, NumPy and Pillow, nothing else.

    python classify.py photo.jpg ...
    python classify.py --clip frame_1.jpg frame_2.jpg ...    # frames of one clip, one answer
    python classify.py                  # the golden vectors: decisions and probabilities to show

`verify` in the folder above holds the letterbox and the decisions; this adds decoding and words.
Pixels are what they were in training: turned as EXIF says or left as they are stored, what is
transparent on black, of 16 bits the high byte.
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

FOLDER = Path(__file__).resolve().parents[2]
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


def main(paths: list[str]) -> int:
    config = json.loads((FOLDER / verify.CONFIG).read_text(encoding="utf-8"))
    if not paths:
        return check_golden(config)
    clip = paths[0] == "--clip"
    frames = []
    interpreter = verify.open_model((FOLDER / config["model"]["file"]).read_bytes())
    table = verify.input_table(config["input"])
    for path in paths[clip:]:
        pixels = read_image(path, config)
        square = verify.letterbox(pixels, config["input"]["width"])
        frames.append(verify.run_model(interpreter, table[square]))
        if not clip:
            sys.stdout.write(f"{path}: {in_words(frames[-1], config)}\n")
    if frames and clip:
        answer = in_words(verify.pool(np.array(frames)), config)
        sys.stdout.write(f"{len(frames)} frames: {answer}\n")
    return 0


def in_words(raw: np.ndarray, config: dict) -> str:
    """Name the labels that the app shows, with the probability to show beside each."""
    shown, names = verify.shown_probabilities(raw[None], config)[0], config["labels"]
    labels = verify.decide(raw[None], config)[0]
    words = (f"{name} {shown[names.index(name)]:.0%}" for name in labels)
    return ", ".join(words) or "none of the classes"


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
    sys.exit(main(sys.argv[1:]))

"""The one decoder: every format, depth and orientation to RGB bytes, or a reason."""

import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps
from pillow_heif import register_heif_opener

from workbench.data import decode
from workbench.data.decode import decode_image, examine_image
from workbench.errors import DatasetError
from workbench.settings import DatasetSettings

READ = DatasetSettings()


@pytest.fixture
def pixels() -> np.ndarray:
    """A smooth picture with four different corners, so that every turn shows."""
    y, x = np.mgrid[0:24, 0:40]
    return np.stack([x * 6, y * 10, (x + y) * 3], axis=-1).astype(np.uint8)


def save(folder: Path, image: Image.Image, name: str, **options) -> Path:
    path = folder / name
    image.save(path, **options)
    return path


def oriented(folder: Path, pixels: np.ndarray, orientation: int, name: str = "turned.png") -> Path:
    exif = Image.Exif()
    exif[274] = orientation
    return save(folder, Image.fromarray(pixels), name, exif=exif)


def png(width: int, height: int, data: bytes = b"", interlaced: bool = False) -> bytes:
    """Write an RGB PNG by hand, for what no library here writes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, interlaced)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def refusal(path: Path, settings: DatasetSettings = READ) -> str:
    """The reason why both decoders refuse the file: they must give the same one."""
    with pytest.raises(DatasetError) as caught:
        decode_image(path, settings)
    facts = examine_image(path, settings)[0]
    assert facts.refused and facts.refused in str(caught.value)
    assert str(path) in str(caught.value)
    return facts.refused


@pytest.mark.parametrize("suffix", ["png", "bmp", "webp", "gif"])
def test_lossless_formats_give_their_own_pixels(tmp_path, pixels, suffix):
    few_colours = pixels // 128 * 255
    options = {"lossless": True} if suffix == "webp" else {}
    path = save(tmp_path, Image.fromarray(few_colours), f"a.{suffix}", **options)
    assert np.array_equal(decode_image(path, READ), few_colours)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_pixels_are_those_of_pillow(tmp_path, pixels, subsampling, progressive):
    noisy = pixels ^ np.random.default_rng(0).integers(0, 32, pixels.shape, dtype=np.uint8)
    image = Image.fromarray(noisy)
    path = save(tmp_path, image, "a.jpg", subsampling=subsampling, progressive=progressive)
    assert np.array_equal(decode_image(path, READ), np.asarray(Image.open(path)))


@pytest.mark.slow
def test_jpeg_pixels_are_those_of_tensorflow_with_the_accurate_method(tmp_path, pixels):
    import workbench  # noqa: F401

    import tensorflow as tf  # isort: skip

    path = save(tmp_path, Image.fromarray(pixels), "a.jpg", quality=80)
    tensor = tf.io.decode_jpeg(path.read_bytes(), channels=3, dct_method="INTEGER_ACCURATE")
    assert np.array_equal(decode_image(path, READ), tensor.numpy())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["turned.png", "turned.webp"])
def test_every_exif_orientation_is_undone(tmp_path, pixels, orientation, name):
    exif = Image.Exif()
    exif[274] = orientation
    options = {"lossless": True} if name.endswith("webp") else {}
    path = save(tmp_path, Image.fromarray(pixels), name, exif=exif, **options)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    assert np.array_equal(decode_image(path, READ), upright)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_jpeg_orientation_is_applied_once(tmp_path, pixels, orientation):
    path = oriented(tmp_path, pixels[:, :24], orientation, "turned.jpg")  # square: no shape helps
    upright = np.asarray(ImageOps.exif_transpose(Image.open(path)))
    assert np.array_equal(decode_image(path, READ), upright)


def test_exif_is_left_alone_when_asked(tmp_path, pixels):
    path = oriented(tmp_path, pixels, 6)
    assert np.array_equal(decode_image(path, DatasetSettings(exif="ignore")), pixels)


def test_facts_give_the_sides_as_people_see_them(tmp_path, pixels):
    facts = examine_image(oriented(tmp_path, pixels, 8), READ)[0]
    assert (facts.width, facts.height, facts.orientation) == (24, 40, 8)


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_an_orientation_that_does_not_exist_means_upright(tmp_path, pixels, orientation):
    assert np.array_equal(decode_image(oriented(tmp_path, pixels, orientation), READ), pixels)


def test_broken_exif_does_not_hide_the_picture(tmp_path, pixels):
    path = save(tmp_path, Image.fromarray(pixels), "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert decode_image(path, READ).shape == (24, 40, 3)


def test_giant_metadata_does_not_hide_the_picture(tmp_path, pixels):
    path = save(
        tmp_path,
        Image.fromarray(pixels),
        "a.jpg",
        icc_profile=b"i" * 900_000,
        comment=b"c" * 60_000,
    )
    assert decode_image(path, READ).shape == (24, 40, 3)


def test_grey_becomes_three_equal_channels(tmp_path, pixels):
    grey = Image.fromarray(pixels).convert("L")
    decoded = decode_image(save(tmp_path, grey, "grey.png"), READ)
    assert np.array_equal(decoded, np.repeat(np.asarray(grey)[:, :, None], 3, axis=2))


def test_sixteen_bit_grey_keeps_its_high_byte(tmp_path):
    values = np.linspace(0, 65535, 600).astype(np.uint16).reshape(20, 30)
    path = save(tmp_path, Image.fromarray(values), "deep.png")
    assert np.array_equal(decode_image(path, READ)[:, :, 0], values >> 8)
    assert examine_image(path, READ)[0].bits == 16


def test_sixteen_bit_colour_keeps_its_high_byte(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (20, 30, 3), dtype=np.uint16)
    path = tmp_path / "deep.png"
    cv2.imwrite(str(path), values[:, :, ::-1])
    assert np.array_equal(decode_image(path, READ), values >> 8)


def test_one_bit_images_are_black_and_white(tmp_path):
    path = save(tmp_path, Image.new("1", (8, 8), 1), "one.png")
    assert (decode_image(path, READ) == 255).all()


ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)


def test_interlaced_png_is_read(tmp_path, pixels):
    passes = [pixels[y::down, x::across] for x, y, across, down in ADAM7]
    data = b"".join(b"\0" + row.tobytes() for part in passes for row in part)
    path = tmp_path / "interlaced.png"
    path.write_bytes(png(40, 24, data, interlaced=True))
    assert np.array_equal(decode_image(path, READ), pixels)


@pytest.mark.parametrize("flavour", [0xC1, 0xC3, 0xC5, 0xC9, 0xCA, 0xCB])
def test_rare_kinds_of_jpeg_end_in_pixels_or_in_a_reason(tmp_path, pixels, flavour):
    path = save(tmp_path, Image.fromarray(pixels), "a.jpg")
    path.write_bytes(path.read_bytes().replace(b"\xff\xc0", bytes([0xFF, flavour]), 1))
    facts = examine_image(path, READ)[0]
    assert facts.refused or (facts.width, facts.height) == (40, 24)


def test_twelve_bit_jpeg_is_refused(tmp_path, pixels):
    path = save(tmp_path, Image.fromarray(pixels), "a.jpg")
    path.write_bytes(path.read_bytes().replace(b"\xff\xc0\0\x11\x08", b"\xff\xc1\0\x11\x0c", 1))
    refusal(path)


def test_transparency_is_composited_on_black(tmp_path):
    rgba = np.full((4, 4, 4), 200, np.uint8)
    rgba[:, :, 3] = [0, 85, 170, 255]
    decoded = decode_image(save(tmp_path, Image.fromarray(rgba), "veil.png"), READ)
    assert decoded[0, :, 0].tolist() == [0, 67, 133, 200]


@pytest.mark.parametrize("mode", ["P", "L", "RGB", "LA"])
def test_a_transparent_colour_is_black_in_every_mode(tmp_path, mode):
    image = Image.new("LA", (4, 4), (90, 0)) if mode == "LA" else Image.new(mode, (4, 4), 0)
    transparent = {"P": 0, "L": 0, "RGB": (0, 0, 0), "LA": None}[mode]
    options = {} if transparent is None else {"transparency": transparent}
    path = save(tmp_path, image, "clear.png", **options)
    assert (decode_image(path, READ) == 0).all()


def test_cmyk_jpeg_is_converted_as_pillow_does(tmp_path, pixels):
    path = save(tmp_path, Image.fromarray(pixels).convert("CMYK"), "print.jpg", quality=95)
    assert np.array_equal(decode_image(path, READ), np.asarray(Image.open(path).convert("RGB")))
    assert examine_image(path, READ)[0].mode == "CMYK"


@pytest.mark.parametrize("name", ["film.gif", "film.png", "film.webp"])
def test_of_an_animation_the_first_frame_is_taken(tmp_path, name):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if name.endswith("webp") else {}
    path = save(tmp_path, frames[0], name, save_all=True, append_images=frames[1:], **options)
    assert np.array_equal(decode_image(path, READ)[0, 0], (255, 0, 0))
    assert examine_image(path, READ)[0].frames == 3


def test_the_suffix_does_not_matter(tmp_path, pixels):
    path = save(tmp_path, Image.fromarray(pixels), "really_a_png.jpg", format="PNG")
    assert np.array_equal(decode_image(path, READ), pixels)
    assert examine_image(path, READ)[0].format == "PNG"


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 5000), (20000, 1)])
def test_extreme_shapes_are_read(tmp_path, width, height):
    path = save(tmp_path, Image.new("RGB", (width, height), "teal"), "thin.png")
    assert decode_image(path, READ).shape == (height, width, 3)


def test_constant_images_are_read(tmp_path):
    path = save(tmp_path, Image.new("RGB", (30, 30)), "black.jpg")
    assert (decode_image(path, READ) == 0).all()


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "a.jpg").touch()
    assert "0 bytes" in refusal(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!doctype html><title>404</title>", "HTML"),
        (b"II*\0" + bytes(64), "TIFF"),
        (b"\0\0\0\x20ftypavif" + bytes(64), "AVIF"),
        (b"\0\0\0\x20ftypheic" + bytes(64), "HEIC"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"\0\0\0\x20ftypisom" + bytes(64), "is a video"),
        (b"just some words", "is not an image"),
        (b"\xff\xd8\xff\xe0" + bytes(40), "damaged"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "damaged"),
    ],
)
def test_what_is_no_image_is_refused_by_its_name(tmp_path, content, words):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    assert words in refusal(path)


@pytest.mark.parametrize("suffix", ["heic", "avif"])
def test_what_phones_save_is_read(tmp_path, pixels, suffix):
    register_heif_opener()  # to write one; the decoder loads it itself
    kind = {"heic": "HEIF", "avif": "AVIF"}[suffix]
    big = np.kron(pixels, np.ones((4, 4, 1), np.uint8))  # both keep colours at half the resolution
    path = save(tmp_path, Image.fromarray(big), "phone.jpg", format=kind, quality=95)
    facts, seen = examine_image(path, READ)
    assert (facts.format, facts.width, facts.height, facts.refused) == (kind, 160, 96, None)
    assert np.abs(seen.astype(int) - big).mean() < 4


def test_a_heic_is_read_by_a_process_that_has_seen_none(tmp_path, pixels):
    register_heif_opener()
    path = save(tmp_path, Image.fromarray(pixels), "phone.heic", quality=95)
    code = ("import sys; from pathlib import Path; from workbench.data.decode import decode_image\n"
            "from workbench.settings import DatasetSettings\n"
            "assert 'pillow_heif' not in sys.modules\n"
            "print(decode_image(Path(sys.argv[1]), DatasetSettings()).shape)")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert done.stdout == "(24, 40, 3)\n", done.stderr


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "gif", "heic", "avif"])
def test_a_truncated_image_is_refused(tmp_path, suffix):
    register_heif_opener()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = save(tmp_path, Image.fromarray(noise), f"a.{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refusal(path)


def half_and_an_end(data: bytes) -> bytes:
    return data[: len(data) // 2] + b"\xff\xd9"


def zeros_inside(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes(400) + data[middle + 400 :]


@pytest.mark.parametrize("damage", [half_and_an_end, zeros_inside])
def test_what_the_decoder_guessed_is_told(tmp_path, damage, capfd):
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 256, (96, 128, 3), np.uint8))
    path = save(tmp_path, photo, "photo.jpg", quality=90)
    assert examine_image(path, READ)[0].guessed == ""
    path.write_bytes(damage(path.read_bytes()))
    facts, seen = examine_image(path, READ)
    assert facts.refused is None and facts.guessed.startswith("Corrupt JPEG data")
    np.testing.assert_array_equal(seen, decode_image(path, READ))
    assert capfd.readouterr().err == ""  # libjpeg's own line names no file


def scanned(data: bytes, times: int) -> bytes:
    """Repeat the last scan of a progressive JPEG, as a file made to keep a decoder busy does."""
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * times + b"\xff\xd9"


def test_a_jpeg_of_thousands_of_scans_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    photo = Image.fromarray(np.zeros((640, 640, 3), np.uint8))
    path = save(tmp_path, photo, "photo.jpg", progressive=True)
    data = path.read_bytes()
    assert sum(1 for _ in decode._scans(data)) == data.count(b"\xff\xda") == 10
    path.write_bytes(scanned(data, 5000))
    monkeypatch.setattr(decode, "_decode_jpeg", None)  # whoever decodes fails
    with pytest.raises(DatasetError, match="has over 4882 scans of 409600 pixels"):
        decode_image(path, READ)


def test_a_scan_marker_in_metadata_is_no_scan(tmp_path, pixels):
    path = save(tmp_path, Image.fromarray(pixels), "photo.jpg")
    data = path.read_bytes()
    note = b"\xff\xfe" + (2 + 60_000).to_bytes(2) + b"\xff\xda" * 30_000
    noted = data[:2] + note + data[2:] + b"\xff\xda" * 1000  # and behind the end
    assert list(decode._scans(noted)) == [3]  # red, green and blue together


@pytest.mark.parametrize(("large", "alone"), [(10, True), (10_000, False)])
def test_large_images_are_decoded_one_at_a_time(tmp_path, pixels, monkeypatch, large, alone):
    """Threads share the memory: two at once would need it twice."""
    monkeypatch.setattr(decode, "LARGE_PIXELS", large)
    seen = []

    def watched(data):
        seen.append(decode._large.locked())
        return pixels, ""

    monkeypatch.setattr(decode, "_decode_jpeg", watched)
    decode_image(save(tmp_path, Image.fromarray(pixels), "photo.jpg"), READ)
    assert seen == [alone]


def test_garbage_after_the_image_does_no_harm(tmp_path, pixels):
    path = save(tmp_path, Image.fromarray(pixels), "a.png")
    with path.open("ab") as file:
        file.write(os.urandom(999))
    assert np.array_equal(decode_image(path, READ), pixels)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "gif"])
def test_flipped_bits_end_in_pixels_or_in_a_reason(tmp_path, pixels, suffix):
    good = save(tmp_path, Image.fromarray(pixels), f"a.{suffix}").read_bytes()
    rng = np.random.default_rng(4)
    path = tmp_path / f"b.{suffix}"
    for _ in range(60):
        damaged = bytearray(good)
        for place in rng.integers(0, len(good), 3):
            damaged[place] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        facts = examine_image(path, DatasetSettings(max_pixels=1_000_000))[0]
        assert facts.refused or (facts.width and facts.height)


def test_a_decompression_bomb_is_refused_by_its_header(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(png(60_000, 60_000))
    assert "too large" in refusal(path)


def test_max_pixels_is_the_limit_to_the_pixel(tmp_path):
    path = save(tmp_path, Image.new("RGB", (10, 11)), "a.png")
    assert decode_image(path, DatasetSettings(max_pixels=110)).shape == (11, 10, 3)
    assert "dataset.max_pixels 109" in refusal(path, DatasetSettings(max_pixels=109))


@pytest.mark.parametrize("suffix", ["jpg", "gif", "bmp", "webp"])
def test_max_pixels_holds_for_every_format(tmp_path, suffix):
    path = save(tmp_path, Image.new("RGB", (64, 64)), f"a.{suffix}")
    assert "dataset.max_pixels" in refusal(path, DatasetSettings(max_pixels=4095))


def test_a_side_of_zero_is_refused(tmp_path):
    path = tmp_path / "nothing.png"
    path.write_bytes(png(0, 5))
    refusal(path)


def test_a_missing_file_is_refused(tmp_path):
    assert "does not exist" in refusal(tmp_path / "gone.jpg")


def test_a_folder_is_refused(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    refusal(tmp_path / "folder.jpg")


def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    assert "regular file" in refusal(tmp_path / "pipe.jpg")


def test_a_device_is_refused(tmp_path):
    (tmp_path / "endless.jpg").symlink_to("/dev/zero")
    assert "regular file" in refusal(tmp_path / "endless.jpg")


def test_a_file_without_permission_is_refused(tmp_path, pixels, monkeypatch):
    path = save(tmp_path, Image.fromarray(pixels), "a.png")

    def forbid(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", forbid)  # root may read everything, so no chmod here
    assert "cannot be read (Permission denied)" in refusal(path)


def test_facts_carry_the_hash_of_the_bytes(tmp_path, pixels):
    import hashlib

    path = save(tmp_path, Image.fromarray(pixels), "a.png")
    facts = examine_image(path, READ)[0]
    assert facts.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert facts.bytes == path.stat().st_size


def shared_images() -> list[Path]:
    folder = os.environ.get("WORKBENCH_SHARED")
    return sorted(Path(folder, "corpora/images").glob("[0-9]*")) if folder else []


@pytest.mark.parametrize("path", shared_images(), ids=lambda path: path.name)
def test_every_odd_file_is_decoded_or_refused_with_a_reason(path):
    facts = examine_image(path, READ)[0]
    tag = path.name.split("__")[0].partition("_")[2]
    if tag.endswith("_ok") or tag in ("exif_orientation", "jpeg_gray", "anim_gif", "png_16bit"):
        assert facts.refused is None
    if facts.refused:
        assert refusal(path) == facts.refused
    else:
        assert decode_image(path, READ).shape == (facts.height, facts.width, 3)


@pytest.mark.skipif(not shared_images(), reason="WORKBENCH_SHARED is not set")
def test_all_odd_files_together_stay_below_a_gigabyte():
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from tests.memory import peak_kilobytes\n"
        "from workbench.data.decode import examine_image\n"
        "from workbench.settings import DatasetSettings\n"
        "for name in sys.argv[1:]:\n"
        "    examine_image(Path(name), DatasetSettings())\n"
        "print(peak_kilobytes())"
    )
    command = [sys.executable, "-c", code, *map(str, shared_images())]
    kilobytes = int(subprocess.check_output(command, stderr=subprocess.DEVNULL))
    assert kilobytes < 1_000_000

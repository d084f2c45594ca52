"""Frames out of video files: as many as asked for, spread evenly over what can be decoded.

Headers lie about lengths, so frames are counted by decoding. What is no video container is never
given to the decoder, which would follow playlists to other files.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from workbench.errors import InputError

SUFFIXES = (".mp4", ".m4v", ".mov", ".3gp", ".avi", ".mkv", ".webm")
KINDS = "MP4, MOV, 3GP, AVI, MKV or WebM"
MOST_FRAMES = 100_000  # nearly an hour at 30 a second
MOST_PIXELS = 2 * 10**11  # of all frames together: as many of full HD, some ten minutes of work


class VideoError(InputError):
    """A video that is not taken apart, and why."""


def is_video(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def read_frames(path: Path, wanted: int, max_pixels: int) -> Iterator[np.ndarray]:
    """Yield `wanted` frames, uint8 RGB [H, W, 3], upright: the middles of equally long parts.

    A video with fewer frames gives every one of them.
    """
    total = _count(path, max_pixels)
    chosen = {(2 * part + 1) * total // (2 * wanted) for part in range(wanted)}
    video = _open(path, max_pixels)
    try:
        for index in range(max(chosen) + 1):
            if not video.grab():
                raise VideoError("decodes to fewer frames the second time")
            if index in chosen:
                yield _retrieved(video, max_pixels)
    finally:
        video.release()


def _count(path: Path, max_pixels: int) -> int:
    video = _open(path, max_pixels)
    try:
        pixels = int(video.get(cv2.CAP_PROP_FRAME_WIDTH) * video.get(cv2.CAP_PROP_FRAME_HEIGHT))
        most = min(MOST_FRAMES, MOST_PIXELS // max(pixels, 1))
        total = 0
        while video.grab():
            total += 1
            if total > most:
                raise VideoError(f"has more than {most} frames of its size; cut it into clips")
    finally:
        video.release()
    if not total:
        raise VideoError("holds no frame that can be decoded")
    return total


def _open(path: Path, max_pixels: int) -> cv2.VideoCapture:
    with open(path, "rb") as file:
        if not _is_container(file.read(12)):
            raise VideoError(f"is no video file ({KINDS})")
    # The path is made absolute so that no name can be taken for an address; FFmpeg alone reads it,
    # as other readers take a % in a name for a series of files.
    video = cv2.VideoCapture(str(path.resolve()), cv2.CAP_FFMPEG)
    sides = [video.get(side) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)]
    if not video.isOpened() or min(sides) < 1:
        video.release()
        raise VideoError("is damaged, or in a format that is not known here")
    if sides[0] * sides[1] > max_pixels:
        video.release()
        raise VideoError(f"has {sides[0]:.0f} x {sides[1]:.0f} pixels, more than {max_pixels}")
    return video


def _is_container(start: bytes) -> bool:
    mp4 = start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
    avi = start[:4] == b"RIFF" and start[8:12] == b"AVI "
    return mp4 or avi or start[:4] == b"\x1a\x45\xdf\xa3"  # Matroska, WebM


def _retrieved(video: cv2.VideoCapture, max_pixels: int) -> np.ndarray:
    found, frame = video.retrieve()
    if not found or frame is None:
        raise VideoError("has a frame that cannot be decoded")
    if frame.shape[0] * frame.shape[1] > max_pixels:
        raise VideoError(f"grows to {frame.shape[1]} x {frame.shape[0]} pixels on the way")
    return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)

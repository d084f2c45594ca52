"""Keep the chatter of native libraries out of notebooks and terminals. Needs no TensorFlow.

The C++ side of the converter and of LiteRT writes straight to the file descriptors, which Python's
own redirection does not reach.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)

DESCRIPTORS = (1, 2)  # stdout, stderr
CHATTY = ("absl", "tensorflow", "tf2onnx")  # Python loggers


@contextmanager
def quiet() -> Iterator[None]:
    """Send descriptors, warnings and chatty loggers to our debug log while the block runs."""
    with tempfile.TemporaryFile() as noise, warnings.catch_warnings(), _calm_loggers():
        warnings.simplefilter("ignore")
        saved = [os.dup(descriptor) for descriptor in DESCRIPTORS]
        _flush()
        try:
            for descriptor in DESCRIPTORS:
                os.dup2(noise.fileno(), descriptor)
            yield
        finally:
            _flush()
            for descriptor, copy in zip(DESCRIPTORS, saved, strict=True):
                os.dup2(copy, descriptor)
                os.close(copy)
            noise.seek(0)
            log.debug("%s", noise.read().decode(errors="replace").strip())


@contextmanager
def _calm_loggers() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in CHATTY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()

"""Measuring on this machine: benchmarks, and the largest batch that fits."""

from __future__ import annotations

import argparse
import importlib
import inspect
from argparse import Namespace
from pathlib import Path
from typing import Any

from workbench.cli.answer import Answer, add_set, settings_for
from workbench.errors import InputError

BENCHMARKS = {  # what each compares, and what --count counts
    "audit": "the audit against decoding each image once, and cleanvision if installed; images",
    "calibration": "INT8 by size and choice of the calibration set, of a --run; seeds",
    "latency": "INT8 against float and ONNX, one and two threads; calls a row",
    "pipeline": "both letterboxes and augmentation against decoding alone; images a round",
    "predict": "answers of a --run to photos against decoding alone and a bare LiteRT loop; photos",
    "thresholds": "the exact search against a loop with scikit-learn; no --count",
    "train": "a step and an epoch against a bare Keras loop; steps of each kind",
}


def benchmark(options: Namespace) -> Answer:
    module = importlib.import_module(f"workbench.benchmarks.{options.name}")
    given = {"count": options.count, "run_folder": options.run, "folder": options.images}
    flags = dict(zip(given, ("--count", "--run", "--images"), strict=True))
    given = {name: value for name, value in given.items() if value is not None}
    for extra in given.keys() - inspect.signature(module.run).parameters.keys():
        raise InputError(f"benchmark {options.name} takes no {flags[extra]}. Leave it out")
    if options.count is not None and options.count < 1:
        raise InputError(f"--count is {options.count}; it must be 1 or more")
    figures = module.run(**given)
    return Answer(module.table(figures), figures)


def find_batch_size(options: Namespace) -> Answer:
    from workbench.train.batch_size import find_batch_size as search

    figures = search(settings_for(options), options.network)
    return Answer(figures["advice"], figures)


def add_commands(command: Any) -> None:
    parser = command("benchmark", "measure a part on this machine", benchmark)
    parser.add_argument("name", choices=sorted(BENCHMARKS))
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "what each compares; what --count counts\n" + "\n".join(
        f"  {name:<12} {words}" for name, words in sorted(BENCHMARKS.items())
    )
    parser.add_argument("--run", type=Path, help="run folder, for calibration and latency")
    parser.add_argument("--images", type=Path, help="folder of your own, for audit and pipeline")
    parser.add_argument("--count", type=int, help="how many, see below")

    parser = command("find-batch-size", "largest batch that fits", find_batch_size)
    parser.add_argument("parameters", type=Path)
    parser.add_argument("--network", choices=("student", "teacher"), default="teacher")
    add_set(parser)

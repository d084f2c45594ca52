"""After a run: its pages, comparisons, other formats, proof, zip and chosen thresholds."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from workbench.cli.answer import Answer
from workbench.errors import InputError


def report(options: Namespace) -> Answer:
    from workbench import batch
    from workbench.run import existing_run

    the_run = existing_run(options.run)
    page = batch.render_all(the_run)
    return Answer(f"Report: {page}", {"report": str(page), "complete": not batch.outdated(the_run)})


def compare(options: Namespace) -> Answer:
    from workbench.compare import compare_runs
    from workbench.files import check_folder, write_text
    from workbench.show.differences import page, text

    for folder in (options.first, *options.others):
        check_folder(folder)
    found = compare_runs(options.first, *options.others)
    if options.html:
        write_text(options.html, page(found))
    figures = [comparison.to_json() for comparison in found]
    return Answer(text(found), figures[0] if len(found) == 1 else {"comparisons": figures})


def leaderboard(options: Namespace) -> Answer:
    from workbench.files import write_text
    from workbench.leaderboard import leaderboard as rank
    from workbench.show.standings import page, text

    board = rank(*options.places, figure=options.by, network=options.network)
    alone = options.places[0] if len(options.places) == 1 else None
    html = options.html or (alone / "leaderboard.html" if alone else None)
    csv = options.csv or (alone / "leaderboard.csv" if alone else None)
    for path, written in ((html, page), (csv, lambda board: board.csv())):
        if path:
            write_text(path, written(board))
    written = "".join(f"\n{path}" for path in (html, csv) if path)
    return Answer(f"{text(board)}\n{written}", board.to_json())


def folds(options: Namespace) -> Answer:
    from workbench.folds import OUT_OF_FOLD, join, read_folds, report, write_out_of_fold

    found = read_folds(options.places)
    answers = join(found)
    words, figures = report(found)
    path = options.out or next(iter(found.runs.values())).parent / OUT_OF_FOLD
    write_out_of_fold(answers, path)
    figures |= {"file": str(path), "images": len(answers.filepaths)}
    return Answer(f"{words}\n\n{path}", figures | {"networks": list(answers.logits)})


def export(options: Namespace) -> Answer:
    from workbench.deploy.formats import export_network
    from workbench.run import existing_run

    formats = [name.strip() for name in options.format.split(",")]
    the_run = existing_run(options.run)
    network = options.network or the_run.settings.product.network
    return Answer(*export_network(the_run, network, formats, force=options.force))


def verify(options: Namespace) -> Answer:
    from workbench.deploy.verify import verify as derive_again

    if not options.run.is_dir():
        raise InputError(f"{options.run} is not a folder. Give that of a run or of its bundle")
    found = derive_again(options.run)
    return Answer(found.text, found.figures, 0 if found.passed else 1)


def review(options: Namespace) -> Answer:
    from workbench.deploy.review import sign
    from workbench.run import existing_run

    run = existing_run(options.run)
    with run.locked():
        return Answer(sign(run.folder, options.verdict, options.name, options.note))


def bundle(options: Namespace) -> Answer:
    from workbench import batch
    from workbench.run import existing_run

    made = batch.hand_over(existing_run(options.run), options.out, page=options.page)
    return Answer(f"{made.changes}\n{made.words}", made.figures)


def thresholds(options: Namespace) -> Answer:
    from workbench.decide.choice import apply_choice
    from workbench.run import existing_run

    run = existing_run(options.run)
    with run.locked():
        return Answer(apply_choice(run.folder, options.choice))


def add_commands(command: Any) -> None:
    parser = command("report", "render a run's notebooks and index again", report)
    parser.add_argument("run", type=Path)

    parser = command("compare", "compare finished runs with the first, on test, paired", compare)
    parser.add_argument("first", type=Path, metavar="RUN")
    parser.add_argument("others", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--html", type=Path, help="also write the comparison as a page")

    parser = command("leaderboard", "rank runs on validation: a sweep, or any runs", leaderboard)
    parser.add_argument("places", type=Path, nargs="+", metavar="FOLDER",
                        help="run folders, or one folder that holds them")  # fmt: skip
    parser.add_argument("--by", metavar="FIGURE", help="f1_macro (the default), f1_micro, map, "
                        "roc_auc_macro, exact_match, hamming_loss, calibration_error, "
                        "accuracy")  # fmt: skip
    parser.add_argument("--network", choices=("teacher", "student", "phone"),
                        help="rank by this network; the furthest that two runs have")  # fmt: skip
    parser.add_argument("--html", type=Path, help="the page; FOLDER/leaderboard.html of one folder")
    parser.add_argument("--csv", type=Path, help="the table; FOLDER/leaderboard.csv of one folder")

    parser = command("folds", "join the runs of a k-fold: spread, out-of-fold scores", folds)
    parser.add_argument("places", type=Path, nargs="+", metavar="FOLDER",
                        help="the runs of the folds, or one folder that holds them")  # fmt: skip
    parser.add_argument("--out", type=Path, help="where to keep the scores (out_of_fold.npz beside "
                        "the runs)")  # fmt: skip

    parser = command("export", "write a run's network in other formats", export)
    parser.add_argument("run", type=Path)
    parser.add_argument("--network", choices=("student", "teacher"), help="default: what ships")
    parser.add_argument("--format", default="float16", help="comma-separated: float16, "
                        "dynamic_range, onnx, torchscript, int8")  # fmt: skip
    parser.add_argument("--force", action="store_true", help="INT8 of a network made for floats")

    parser = command("verify", "derive every number of the bundle again", verify)
    parser.add_argument("run", type=Path)

    parser = command("review", "sign a run: a verdict on the files as they are", review, json=False)
    parser.add_argument("run", type=Path)
    parser.add_argument("--verdict", required=True, choices=("ready", "with care", "not ready"))
    parser.add_argument("--name", required=True, help="of the reviewer")
    parser.add_argument("--note", default="", help="what should be known")

    parser = command("bundle", "put what an app developer needs into one zip", bundle)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, metavar="FILE.zip", help="RUN/<its name>.zip")
    parser.add_argument("--page", action="store_true", help="with a page that runs the model in "
                        "a browser, offline; npm brings LiteRT.js once")  # fmt: skip

    parser = command("thresholds", "apply thresholds chosen by a person", thresholds, json=False)
    parser.add_argument("run", type=Path)
    parser.add_argument("choice", type=Path, help="threshold_recommendation.json of the explorer")

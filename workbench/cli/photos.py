"""Photos that come after training: what the app says of them, and which to label next."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from workbench.cli.answer import Answer
from workbench.errors import InputError


def predict(options: Namespace) -> Answer:
    from workbench.files import write_text
    from workbench.predict import Classifier, find_photos
    from workbench.reference import reference_if_there
    from workbench.show.answers import page, text

    classifier = Classifier(options.run, features=options.html is not None)
    answers = classifier.answers(find_photos(options.photos))
    if options.csv:
        write_text(options.csv, answers.csv())
    if options.html:
        known = reference_if_there(options.run, classifier)
        write_text(options.html, page(answers, classifier, known))
    written = "".join(f"\n{path}" for path in (options.csv, options.html) if path)
    return Answer(f"{text(answers)}{written}", answers.to_json(), int(not answers.names))


def triage(options: Namespace) -> Answer:
    from workbench.files import write_text
    from workbench.predict import Classifier, find_photos
    from workbench.reference import reference
    from workbench.run import existing_run
    from workbench.show.label_next import page, text
    from workbench.triage import triage as sort

    if options.count < 1:
        raise InputError(f"--count is {options.count}; it must be 1 or more")
    classifier = Classifier(options.run, features=True)
    known = reference(existing_run(options.run), classifier)
    found = sort(classifier.answers(find_photos(options.photos)), known, options.count)
    if options.csv:
        write_text(options.csv, found.csv())
    if options.html:
        write_text(options.html, page(found, classifier))
    written = "".join(f"\n{path}" for path in (options.csv, options.html) if path)
    return Answer(f"{text(found)}\n{written}", found.to_json())


def judge(options: Namespace) -> Answer:
    from workbench import judgements
    from workbench.run import existing_run

    run = existing_run(options.run)
    given = judgements.read(options.judgements) if options.judgements else []
    merged = {one.place: one for one in (*judgements.kept(run.folder), *given)}
    if not merged:
        raise InputError(f"nothing was judged in {run.folder}. Click below a mistake in 09 first")
    with run.locked():
        judgements.keep(run.folder, merged.values())
        judged = merged.values()
        words = judgements.edit_tables(run.folder, run.dataset_folder, judged, run.settings.task)
        judgements.set_aside(run.folder)
    run.compute()
    return Answer(words)


def add_commands(command: Any) -> None:
    parser = command("predict", "answer photos with the file that ships", predict)
    parser.add_argument("run", type=Path, help="a run folder, or a bundle")
    parser.add_argument("photos", type=Path, metavar="PHOTOS", help="a photo, or a folder of them")
    parser.add_argument("--csv", type=Path, help="write a row a photo, with every class")
    parser.add_argument("--html", type=Path, help="write a page with pictures and filters")

    parser = command("triage", "say which photos to label next, and which are unlike", triage)
    parser.add_argument("run", type=Path, help="a run folder whose photos are at hand")
    parser.add_argument("photos", type=Path, metavar="FOLDER", help="photos without labels")
    parser.add_argument("--count", type=int, default=200, help="how many to label (default 200)")
    parser.add_argument("--csv", type=Path, help="write a label table with ? in each row")
    parser.add_argument("--html", type=Path, help="write a page with pictures")

    words = "correct labels as judged in 09, and run again what follows from them"
    parser = command("judge", words, judge, json=False)
    parser.add_argument("run", type=Path)
    parser.add_argument("judgements", type=Path, nargs="?", help="judgements.json that page 09 "
                        "downloaded; what was clicked in JupyterLab is known")  # fmt: skip

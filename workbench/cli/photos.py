"""Photos that come after training: what the app says of them."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from workbench.cli.answer import Answer


def predict(options: Namespace) -> Answer:
    from workbench.files import write_text
    from workbench.predict import Classifier, find_photos
    from workbench.show.answers import page, text

    classifier = Classifier(options.run)
    answers = classifier.answers(find_photos(options.photos))
    if options.csv:
        write_text(options.csv, answers.csv())
    if options.html:
        write_text(options.html, page(answers, classifier))
    written = "".join(f"\n{path}" for path in (options.csv, options.html) if path)
    return Answer(f"{text(answers)}{written}", answers.to_json(), int(not answers.names))


def add_commands(command: Any) -> None:
    parser = command("predict", "answer photos with the file that ships", predict)
    parser.add_argument("run", type=Path, help="a run folder, or a bundle")
    parser.add_argument("photos", type=Path, metavar="PHOTOS", help="a photo, or a folder of them")
    parser.add_argument("--csv", type=Path, help="write a row a photo, with every class")
    parser.add_argument("--html", type=Path, help="write a page with pictures and filters")

"""Before a run: `demo` pictures, a `new` project, `prepare` and `audit` photos."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from workbench.cli.answer import Answer, add_set, settings_for
from workbench.errors import InputError


def demo(options: Namespace) -> Answer:
    from workbench.data.demo import draw_demo

    if options.seed < 0:
        raise InputError(f"--seed is {options.seed}: seeds are whole numbers from 0")
    if options.images < 20:
        raise InputError(f"--images is {options.images}: fewer than 20 cannot fill three splits")
    made = draw_demo(options.folder, options.images, options.seed)
    verb = "drawn in" if made.drawn else "already in"
    return Answer(f"{made.images} pictures {verb} {made.folder}", {"images": made.images})


def new(options: Namespace) -> Answer:
    """Start a project, empty or around photos that lie somewhere."""
    from workbench import project
    from workbench.run import project_root

    source, folder = project_root(Path(__file__).parent.parent), options.folder
    if options.photos:
        words = project.start_from(source, folder, options.photos, options.preset, options.weights)
        return Answer(words)
    if options.preset or options.weights:
        raise InputError("--preset and --weights choose for photos: name them with --from")
    project.start(source, folder)
    return Answer(
        f"Project in {folder}. One label a photo: a folder of photos a class into data/images, and "
        "task: single_label into parameters/mine.yaml. Several: photos into data/images, and "
        "train_labels.csv, val_labels.csv and test_labels.csv, or one labels.csv, into data. Then:"
        f"\n  cd {project.quoted(str(folder))}\n  {project.command()} run parameters/mine.yaml\n"
        "Photos that lie elsewhere: new FOLDER --from PHOTOS looks at them and writes all this"
    )


def prepare(options: Namespace) -> Answer:
    from workbench.data.prepare import prepare as standardise

    done = standardise(
        options.source, options.destination, options.size, options.quality, options.frames
    )
    return Answer(done.summary, done.figures)


def audit(options: Namespace) -> Answer:
    from workbench.data.audit.report import audit_folder

    given = {"dataset": {"dir": str(options.folder.resolve())}}  # its config.yaml has a say
    if options.parameters is None:
        given["num_classes"] = "auto"  # an audit counts the classes itself
    settings = settings_for(options, given)
    text, figures = audit_folder(options.folder, settings, options.out)
    if options.scores:
        from workbench.folds import dispute

        words, disputed = dispute(options.scores, settings, options.out)
        text, figures = f"{words}\n{text}", figures | {"label_errors": disputed}
    return Answer(text, figures, 0 if figures["fit"] else 1)


def add_commands(command: Any) -> None:
    parser = command("demo", "draw the demo dataset into a folder", demo)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("data/demo"))
    parser.add_argument("--images", type=int, default=1400, help="how many (default 1400)")
    parser.add_argument("--seed", type=int, default=1337)

    parser = command("new", "start a project: parameters, notebooks, folders", new, json=False)
    parser.add_argument("folder", type=Path)
    add = parser.add_argument
    add("--from", type=Path, dest="photos", metavar="PHOTOS", help="look at these photos (class "
        "folders, label tables, an export of COCO, Roboflow, Hugging Face, Edge Impulse, FiftyOne "
        "or Label Studio) and write parameters/mine.yaml; they stay where they lie")  # fmt: skip
    add("--preset", choices=("laptop", "full"), default="", help="laptop: minutes without a GPU; "
        "full: the networks of default.yaml. By itself: what the machine has")  # fmt: skip
    add("--weights", default="", metavar="DIR", help="folder with published weights, in place of "
        "the download; or imagenet, or none")  # fmt: skip

    parser = command("prepare", "standardise raw photos into a new folder", prepare)
    parser.add_argument("source", type=Path)
    parser.add_argument("destination", type=Path)
    parser.add_argument("--size", type=int, default=600, help="longest side in pixels")
    parser.add_argument("--quality", type=int, default=95, help="JPEG quality, 1 to 100")
    frames = "take so many frames, evenly spaced, of every video; the clip becomes their group"
    parser.add_argument("--frames", type=int, default=0, metavar="N", help=frames)

    parser = command("audit", "say whether a dataset is fit to train on", audit)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--parameters", type=Path, help="parameter file with the dataset's rules")
    parser.add_argument("--out", type=Path, help="where to write audit.csv and audit.json")
    parser.add_argument("--scores", type=Path, help="out_of_fold.npz of a k-fold: name the labels "
                        "that its networks dispute")  # fmt: skip
    add_set(parser)

"""Photos that nobody labelled: which they are, who sees them, and what an epoch is with them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.prove.unlabelled import keep_few_labels
from tests.test_augment import OFF as NO_AUGMENTATION
from workbench.data.audit.report import audit_dataset
from workbench.data.pipeline import TrainingBatches, mix_up, training_batches
from workbench.data.tables import UNLABELED_MANIFEST, load_dataset, read_dataset, write_dataset
from workbench.data.views import View
from workbench.errors import DatasetError
from workbench.files import read_json
from workbench.settings import Mixup, Settings

SIZE = 8
VIEW = View(SIZE, "none")


def draw(path: Path, seed: int, side: int = 64) -> None:
    """Draw blobs that no other seed draws: near-duplicates are looked for."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve labelled photos with a table a split, and five photos in a folder beside them."""
    data = tmp_path / "data"
    for split, first in (("train", 0), ("val", 8), ("test", 10)):
        rows = ["filepath,labels"]
        for index in range(first, first + (8 if split == "train" else 2)):
            draw(data / f"images/{index}.png", index)
            rows.append(f"{index}.png,{'cat' if index % 2 else 'dog'}")
        (data / f"{split}_labels.csv").write_text("\n".join(rows))
    for index in range(5):
        draw(tmp_path / f"roll/day/{index}.png", 100 + index)
    return data


def settings(unlabeled: str | None = "../roll", **groups) -> Settings:
    values = {"num_classes": "auto", "dataset": {"unlabeled": unlabeled}} | groups
    return Settings.model_validate(values | {"augmentation": NO_AUGMENTATION.model_dump()})


def names(split) -> list[str]:
    return [Path(name).as_posix() for name in split.filepaths]


# Which photos they are.


def test_a_folder_beside_the_dataset_holds_photos_without_labels(folder):
    dataset = read_dataset(folder, settings())
    found = dataset.split("unlabeled")
    assert names(found) == [f"../../roll/day/{index}.png" for index in range(5)]
    assert all(found.path(index).is_file() for index in range(5))
    assert not found.mask.any() and not found.targets.any()
    assert [len(dataset.split(name)) for name in ("train", "val", "test")] == [8, 2, 2]


def test_photos_that_a_table_names_are_left_out(folder):
    draw(folder / "images/more.png", 50)
    assert names(read_dataset(folder, settings("images")).split("unlabeled")) == ["more.png"]


def test_a_folder_without_other_photos_is_refused(folder):
    with pytest.raises(DatasetError, match="no photo beside those that the label tables name"):
        read_dataset(folder, settings("images"))


def test_a_missing_folder_is_refused_by_name(folder):
    with pytest.raises(DatasetError, match=r"dataset\.unlabeled names one"):
        read_dataset(folder, settings("../rolls"))


@pytest.mark.parametrize("cell", ["?", "?cat|?dog"])
def test_a_training_row_of_which_nothing_is_known_is_one(folder, cell):
    table = folder / "train_labels.csv"
    table.write_text(table.read_text().replace("3.png,cat", f"3.png,{cell}"))
    dataset = read_dataset(folder, settings(None))
    assert names(dataset.split("unlabeled")) == ["3.png"]
    assert "3.png" not in names(dataset.split("train"))


def test_one_label_takes_them_in_training_only(folder):
    single = settings(None, task="single_label")
    table = folder / "train_labels.csv"
    table.write_text(table.read_text().replace("3.png,cat", "3.png,?"))
    assert len(read_dataset(folder, single).split("unlabeled")) == 1
    table = folder / "val_labels.csv"
    table.write_text(table.read_text().replace("9.png,cat", "9.png,?"))
    with pytest.raises(DatasetError, match=r"9\.png has no label, and val needs one"):
        read_dataset(folder, single)


def test_a_table_that_is_split_keeps_them_out_of_every_split(folder):
    rows = [f"{index}.png,{'?' if index in (2, 7) else 'cat|dog'}" for index in range(12)]
    for name in ("train", "val", "test"):
        (folder / f"{name}_labels.csv").unlink()
    (folder / "labels.csv").write_text("\n".join(["filepath,labels", *rows]))
    dataset = read_dataset(folder, settings(None))
    assert names(dataset.split("unlabeled")) == ["2.png", "7.png"]
    assert sum(len(dataset.split(name)) for name in ("train", "val", "test")) == 10


def test_a_folder_among_class_folders_is_no_class(tmp_path):
    for index in range(20):
        draw(tmp_path / f"pets/{'cat' if index % 2 else 'dog'}/{index}.png", index)
        draw(tmp_path / f"pets/others/{index}.png", 100 + index)
    dataset = read_dataset(tmp_path / "pets", settings("others", task="single_label"))
    assert dataset.classes == ("cat", "dog")
    assert len(dataset.split("unlabeled")) == 20


# What is kept of them, and what the audit says.


def kept(folder: Path, run: Path, changed: Settings) -> tuple:
    run.mkdir(exist_ok=True)
    report = audit_dataset(read_dataset(folder, changed), changed)
    write_dataset(report.dataset, run, run.parent, task="multilabel", sha256=report.sha256)
    return report, load_dataset(run, run.parent)


def test_the_run_gives_them_back(folder, tmp_path):
    _report, again = kept(folder, tmp_path / "run", settings())
    before = read_dataset(folder, settings())
    assert names(again.split("unlabeled")) == names(before.split("unlabeled"))
    assert again.split("train", "unlabeled").mask.any(axis=1).sum() == 8


def test_their_content_is_told_apart_from_that_of_the_labelled(folder, tmp_path):
    """03 reads the one manifest, 04 and 05 both: more photos must not train a teacher anew."""
    run = tmp_path / "run"
    kept(folder, run, settings())
    labelled, others = ((run / name).read_bytes()
                        for name in ("dataset_manifest.json", UNLABELED_MANIFEST))  # fmt: skip
    draw(tmp_path / "roll/day/3.png", 999)
    kept(folder, run, settings())
    assert (run / "dataset_manifest.json").read_bytes() == labelled
    assert (run / UNLABELED_MANIFEST).read_bytes() != others
    kept(folder, run, settings(None))
    assert (run / "dataset_manifest.json").read_bytes() == labelled
    assert not (run / UNLABELED_MANIFEST).exists()


@pytest.mark.parametrize("of", ["8.png", "10.png"], ids=["val", "test"])
def test_a_copy_of_a_held_out_photo_is_a_leak(folder, tmp_path, of):
    Image.open(folder / "images" / of).save(tmp_path / "roll/copy.jpg", quality=90)
    report, _dataset = kept(folder, tmp_path / "run", settings())
    leaks = report.findings[report.findings["kind"] == "leak"]
    assert set(leaks["image"]) == {of, "../../roll/copy.jpg"}
    moves = report.proposal.moves
    assert moves["image"].tolist() == ["../../roll/copy.jpg"]
    assert moves["to"].tolist() == [""]


def test_a_copy_of_a_training_photo_is_none_and_the_labelled_one_stays(folder, tmp_path):
    (tmp_path / "roll/copy.png").write_bytes((folder / "images/3.png").read_bytes())
    report, _dataset = kept(folder, tmp_path / "run", settings())
    assert set(report.findings["kind"]) & {"leak", "exact_duplicate"} == {"exact_duplicate"}
    assert report.proposal.moves["image"].tolist() == ["../../roll/copy.png"]


def test_a_broken_one_is_refused_or_put_in_quarantine(folder, tmp_path):
    (tmp_path / "roll/broken.jpg").write_bytes(b"no photo")
    report, _dataset = kept(folder, tmp_path / "one", settings())
    with pytest.raises(DatasetError, match=r"roll/broken\.jpg"):
        report.raise_if_unfit()
    patient = settings().model_copy(
        update={"dataset": settings().dataset.model_copy(update={"on_bad_image": "quarantine"})}
    )
    report, dataset = kept(folder, tmp_path / "two", patient)
    report.raise_if_unfit()
    assert dataset.quarantine["filepath"].tolist() == ["../../roll/broken.jpg"]
    manifests = [read_json(tmp_path / "two" / name)["quarantined"]
                 for name in ("dataset_manifest.json", UNLABELED_MANIFEST)]  # fmt: skip
    assert manifests == [0, 1]


def test_the_proof_takes_most_labels_off_and_leaves_every_class_two(folder):
    dataset = read_dataset(folder, settings(None))
    few = keep_few_labels(dataset, share=0.1, most=7, seed=0)
    assert few.split("train").targets.sum(axis=0).tolist() == [2, 2]
    assert len(few.split("unlabeled")) == 3 and not few.split("unlabeled").targets.any()
    assert [len(few.split(name)) for name in ("val", "test")] == [2, 2]


# What a batch and an epoch hold.


def stream(folder: Path, share: float, batch_size: int, **options) -> TrainingBatches:
    changed = settings(distillation={"unlabeled_share": share})
    photos = read_dataset(folder, changed).split("train", "unlabeled")
    return training_batches(photos, (VIEW,), batch_size, changed, **options)


def batches_of(batches: TrainingBatches, epochs: int = 1) -> list[np.ndarray]:
    """The mask of every batch."""
    steps = batches.steps_per_epoch * epochs
    return [mask.numpy() for _views, _targets, mask in batches.dataset.take(steps)]


@pytest.mark.parametrize("share, labelled, others", [(0.5, 2, 2), (0.75, 1, 3), (0.25, 3, 1)])
def test_they_fill_their_share_of_every_batch(folder, share, labelled, others):
    for mask in batches_of(stream(folder, share, 4), epochs=2):
        known = mask.any(axis=1)
        assert abs(known.sum() - labelled) <= 1 and abs((~known).sum() - others) <= 1
        assert len(mask) <= 4


@pytest.mark.parametrize("share, draws", [(0.25, (15, 5)), (0.5, (8, 8)), (0.75, (8, 24))])
def test_an_epoch_shows_every_photo_and_the_fewer_come_again(folder, share, draws):
    batches = stream(folder, share, 4)
    assert batches.steps_per_epoch == -(-sum(draws) // 4)
    seen, known = [], []
    for views, _targets, mask in batches.dataset.take(batches.steps_per_epoch):
        seen += [view.numpy().tobytes() for view in views[0]]
        known += mask.numpy().any(axis=1).tolist()
    assert (sum(known), len(known) - sum(known)) == draws
    assert len(set(seen)) == 8 + 5


def test_a_photo_that_comes_again_within_an_epoch_is_seen_anew(folder):
    changed = settings(distillation={"unlabeled_share": 0.75})
    photos = read_dataset(folder, changed).split("train", "unlabeled")
    seen = []

    def note(image, rng):
        seen.append(rng.random())
        return image

    batches = training_batches(photos, (VIEW,), 4, changed, augment=note)
    batches_of(batches)
    assert len(seen) > 13 and len(set(seen)) == len(seen)


def test_labelled_photos_alone_are_what_they_were(folder):
    changed = settings()
    dataset = read_dataset(folder, changed)
    alone = training_batches(dataset.split("train"), (VIEW,), 4, changed)
    assert alone.steps_per_epoch == 2
    longer = training_batches(dataset.split("train"), (VIEW,), 4, changed, least=20)
    assert longer.steps_per_epoch == 5
    assert [len(mask) for mask in batches_of(longer)] == [4] * 5


def test_a_stream_taken_up_in_the_middle_goes_on_byte_for_byte(folder):
    whole = stream(folder, 0.5, 3)
    steps = whole.steps_per_epoch
    expected = [views[0].numpy() for views, _t, _m in whole.dataset.skip(steps).take(steps)]
    later = stream(folder, 0.5, 3, first_epoch=1).dataset.take(steps)
    found = [views[0].numpy() for views, _t, _m in later]
    assert all(np.array_equal(*pair) for pair in zip(expected, found, strict=True))


def test_workers_take_equally_many_steps_and_see_every_photo(folder):
    shards = [stream(folder, 0.5, 2, shard=(worker, 2)) for worker in (0, 1)]
    assert len({shard.steps_per_epoch for shard in shards}) == 1
    seen = {view.numpy().tobytes() for shard in shards
            for views, _t, _m in shard.dataset.take(shard.steps_per_epoch)
            for view in views[0]}  # fmt: skip
    assert len(seen) == 13


def test_mixup_never_blends_a_label_with_a_photo_without(folder):
    photos = read_dataset(folder, settings()).split("train", "unlabeled")
    mixup = Mixup(enabled=True)
    for seed in range(5):
        _, mask = mix_up([photos.targets, photos.mask], np.random.default_rng(seed), mixup)
        assert mask.any(axis=1).tolist() == photos.mask.any(axis=1).tolist()


def test_a_split_without_any_label_is_refused(folder):
    photos = read_dataset(folder, settings()).split("unlabeled")
    with pytest.raises(DatasetError, match="has a label"):
        training_batches(replace(photos, name="train"), (VIEW,), 4, settings())

"""Datasets as other tools export them: read where they lie, by the rules of every dataset."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from workbench.data import exports
from workbench.data.tables import Dataset, read_dataset
from workbench.errors import DatasetError
from workbench.settings import DatasetSettings, Settings

ANY = Settings(num_classes="auto")
CLASSES = ("cat", "dog", "newt")
# What every drawn export says, photo by photo and split by split.
SAID = {f"{split}{n}": CLASSES[n % 3 : n % 3 + 1 + n % 2] for n in range(12)
        for split in ("train", "val", "test")}  # fmt: skip


def photo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(path.name.encode())


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


def split_of(name: str) -> str:
    return name.rstrip("0123456789")


def draw_coco(folder: Path) -> None:
    categories = [{"id": 7 + n, "name": name} for n, name in enumerate(CLASSES)]
    for split in ("train", "val", "test"):
        images, annotations = [], []
        for number, name in enumerate(one for one in SAID if split_of(one) == split):
            photo(folder / f"{split}2017" / f"{name}.jpg")
            images.append({"id": number, "file_name": f"{name}.jpg"})
            annotations += [{"image_id": number, "category_id": 7 + CLASSES.index(label)}
                            for label in SAID[name]]  # fmt: skip
        content = {"images": images, "annotations": annotations, "categories": categories}
        write(folder / f"annotations/instances_{split}2017.json", content)


def draw_roboflow(folder: Path) -> None:
    for split, place in {"train": "train", "val": "valid", "test": "test"}.items():
        rows = [f"filename, {', '.join(CLASSES)}"]
        for name in (one for one in SAID if split_of(one) == split):
            photo(folder / place / f"{name}.jpg")
            marks = [str(int(label in SAID[name])) for label in CLASSES]
            rows.append(f"{name}.jpg, {', '.join(marks)}")
        write(folder / place / "_classes.csv", "\n".join(rows))


def draw_imagefolder(folder: Path) -> None:
    rows = ["file_name,width,labels"]
    for name, labels in SAID.items():
        place = {"val": "validation"}.get(split_of(name), split_of(name))
        photo(folder / place / f"{name}.png")
        rows.append(f"{place}/{name}.png,64,{'|'.join(labels)}")
    write(folder / "metadata.csv", "\n".join(rows))


def draw_jsonl(folder: Path) -> None:
    for split in ("train", "val", "test"):
        lines = []
        for name in (one for one in SAID if split_of(one) == split):
            photo(folder / split / f"{name}.png")
            lines.append(json.dumps({"file_name": f"{name}.png", "labels": SAID[name]}))
        write(folder / split / "metadata.jsonl", "\n".join(lines))


def draw_fiftyone(folder: Path) -> None:
    samples = []
    for name, labels in SAID.items():
        photo(folder / f"data/{name}.jpg")
        inside = [{"_cls": "Classification", "label": label} for label in labels]
        truth = {"_cls": "Classifications", "classifications": inside}
        samples.append({"filepath": f"data/{name}.jpg", "tags": [split_of(name)],
                        "guess": {"_cls": "Classification", "label": "no"},
                        "ground_truth": truth})  # fmt: skip
    write(folder / "samples.json", {"samples": samples})
    write(folder / "metadata.json", {"name": "drawn"})


def draw_label_studio(folder: Path) -> None:
    tasks = []
    for number, (name, labels) in enumerate(SAID.items()):
        photo(folder / split_of(name) / f"{name}.jpg")
        value = {"type": "choices", "value": {"choices": list(labels)}}
        done = {"was_cancelled": False, "result": [value]}
        given_up = {"was_cancelled": True, "result": []}
        address = f"/data/upload/3/{number:08x}-{name}.jpg"
        tasks.append({"id": 1, "data": {"image": address}, "annotations": [given_up, done]})
    write(folder / "project-3.json", tasks)


DRAWN = {"coco": draw_coco, "roboflow": draw_roboflow, "imagefolder": draw_imagefolder,
         "jsonl": draw_jsonl, "fiftyone": draw_fiftyone,
         "label_studio": draw_label_studio}  # fmt: skip


def read(folder: Path, **dataset: Any) -> Dataset:
    return read_dataset(folder, Settings(num_classes="auto", dataset=DatasetSettings(**dataset)))


def refusal(folder: Path, **dataset: Any) -> str:
    with pytest.raises(DatasetError) as caught:
        read(folder, **dataset)
    return str(caught.value)


@pytest.mark.parametrize("tool", DRAWN)
def test_an_export_is_read_where_it_lies(tmp_path, tool):
    DRAWN[tool](tmp_path)
    before = sorted(path for path in tmp_path.rglob("*"))
    dataset = read(tmp_path)
    assert dataset.classes == CLASSES
    found = {Path(row.filepath).stem: (row.split, row.labels) for row in dataset.rows.itertuples()}
    assert found == {name: (split_of(name), labels) for name, labels in SAID.items()}
    assert all((dataset.images / path).is_file() for path in dataset.rows["filepath"])
    assert sorted(path for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("boxes", [False, True])
def test_an_edge_impulse_export_is_read_and_what_has_no_split_is_dealt(tmp_path, boxes):
    files = []
    for number in range(40):
        category = "testing" if number % 4 == 0 else "training"
        photo(tmp_path / category / f"{number}.jpg")
        label = {"type": "label", "label": CLASSES[number % 3]}
        said = {"boundingBoxes": [label]} if boxes else {"label": label}
        files.append({"path": f"{category}/{number}.jpg", "category": category, **said})
    files[1] |= {"label": {"type": "unlabeled"}, "boundingBoxes": []}
    files.append({"path": "training/noise.wav", "category": "training", "label": files[0]})
    write(tmp_path / "info.labels", {"version": 1, "files": files})
    rows = read(tmp_path).rows.set_index("filepath")
    assert rows["split"].value_counts().to_dict() == {
        "train": 26, "test": 10, "val": 3, "unlabeled": 1
    }  # fmt: skip
    assert rows["split"]["testing/4.jpg"] == "test" and rows["labels"]["testing/4.jpg"] == ("dog",)
    assert rows["split"]["training/1.jpg"] == "unlabeled"


def test_photos_named_by_their_label_are_an_edge_impulse_upload(tmp_path):
    for place in ("training", "testing"):
        for number in range(9):
            photo(tmp_path / place / f"{CLASSES[number % 3]}.{number}.jpg")
    rows = read(tmp_path).rows
    assert [row.labels[0] for row in rows.itertuples()] == [
        Path(path).name.split(".")[0] for path in rows["filepath"]
    ]
    assert set(rows["split"][rows["filepath"].str.startswith("testing")]) == {"test"}


def test_photos_named_by_their_day_are_no_upload_of_labels(tmp_path):
    for number in range(6):
        photo(tmp_path / f"IMG.2026.{number}.jpg")
    assert "6 photos without labels" in refusal(tmp_path)


def test_fiftyone_classes_name_photos_without_their_suffix(tmp_path):
    for number in range(30):
        photo(tmp_path / f"data/{number}.jpg")
    labels = {str(number): [number % 3, (number + 1) % 3] for number in range(30)}
    write(tmp_path / "labels.json", {"classes": CLASSES, "labels": labels | {"0": None}})
    rows = read(tmp_path).rows.set_index("filepath")
    assert rows["labels"]["data/1.jpg"] == ("dog", "newt")
    assert rows["split"]["data/0.jpg"] == "unlabeled"


def test_where_annotators_differ_a_label_is_unknown(tmp_path):
    draw_label_studio(tmp_path)
    path = tmp_path / "project-3.json"
    tasks = json.loads(path.read_text())
    other = {"type": "choices", "value": {"choices": ["cat", "newt"]}}
    tasks[0]["annotations"].append({"result": [other]})  # who came first said cat alone
    path.write_text(json.dumps(tasks))
    rows = read(tmp_path).rows.set_index("filepath")
    assert (rows["labels"]["train/train0.jpg"], rows["unknown"]["train/train0.jpg"]) == (
        ("cat",), ("newt",)
    )  # fmt: skip


def test_the_short_form_of_label_studio_is_read(tmp_path):
    tasks = []
    for number in range(30):
        photo(tmp_path / f"in/{number}.jpg")
        choice = CLASSES[number % 3] if number % 2 else {"choices": list(CLASSES[:2])}
        tasks.append({"image": f"/data/local-files/?d=in%2F{number}.jpg", "choice": choice,
                      "annotation_id": number})  # fmt: skip
    write(tmp_path / "min.json", tasks)
    rows = read(tmp_path).rows.set_index("filepath")
    assert rows["labels"]["in/2.jpg"] == ("cat", "dog") and rows["labels"]["in/3.jpg"] == ("cat",)


def test_an_image_without_annotations_has_none_of_the_classes(tmp_path):
    draw_coco(tmp_path)
    path = tmp_path / "annotations/instances_val2017.json"
    content = json.loads(path.read_text())
    content["annotations"] = [one for one in content["annotations"] if one["image_id"]]
    path.write_text(json.dumps(content))
    rows = read(tmp_path).rows.set_index("filepath")
    assert (rows["labels"]["val2017/val0.jpg"], rows["unknown"]["val2017/val0.jpg"]) == ((), ())


@pytest.mark.parametrize(
    "name", ["../out.jpg", "/etc/out.jpg", "https://example.org/out.jpg", "a\\out.jpg", "o\0ut.jpg"]
)
def test_a_path_that_leads_out_is_refused(tmp_path, name):
    folder = tmp_path / "data"
    draw_fiftyone(folder)
    photo(tmp_path / "out.jpg")
    content = json.loads((folder / "samples.json").read_text())
    content["samples"][0]["filepath"] = name
    write(folder / "samples.json", content)
    assert refusal(folder).startswith("samples.json, entry 1: ")


def test_a_path_with_two_dots_is_refused_although_a_photo_of_its_name_lies_inside(tmp_path):
    draw_fiftyone(tmp_path)
    path = tmp_path / "samples.json"
    path.write_text(path.read_text().replace("data/train0.jpg", "../elsewhere/train0.jpg"))
    assert "leads out with .." in refusal(tmp_path)


def test_a_path_of_another_machine_is_looked_for_in_the_folder(tmp_path):
    draw_fiftyone(tmp_path)
    path = tmp_path / "samples.json"
    path.write_text(path.read_text().replace("data/train", "/home/me/photos/train"))
    assert "data/train0.jpg" in set(read(tmp_path).rows["filepath"])


def test_a_link_to_a_photo_outside_is_refused(tmp_path):
    folder = tmp_path / "data"
    draw_fiftyone(folder)
    photo(tmp_path / "out.jpg")
    (folder / "data/train0.jpg").unlink()
    (folder / "data/train0.jpg").symlink_to(tmp_path / "out.jpg")
    assert "is a link out of" in refusal(folder)


def test_a_linked_export_is_not_followed(tmp_path):
    folder = tmp_path / "data"
    draw_fiftyone(folder)
    (folder / "samples.json").rename(tmp_path / "samples.json")
    (folder / "samples.json").symlink_to(tmp_path / "samples.json")
    assert "holds no fiftyone dataset" in refusal(folder, layout="fiftyone")


def test_a_name_that_fits_several_photos_is_refused_with_their_places(tmp_path):
    tasks = [{"data": {"image": "1.jpg"}, "annotations": []}]
    write(tmp_path / "tasks.json", tasks)
    for place in ("a", "b"):
        photo(tmp_path / place / "1.jpg")
    assert "1.jpg may be any of 2 photos: a/1.jpg, b/1.jpg" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["a|b", "?cat", "", None, {"x": 1}])
def test_a_class_that_no_table_can_hold_is_refused(tmp_path, name):
    draw_coco(tmp_path)
    path = tmp_path / "annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    content["categories"][0]["name"] = name
    path.write_text(json.dumps(content))
    assert refusal(tmp_path).startswith("annotations/instances_train2017.json")


@pytest.mark.parametrize("changes", [
    {"annotations": [{"image_id": 0, "category_id": 99}]}, {"annotations": [3]},
    {"images": [{"id": 0}]}, {"images": [[]]}, {"categories": [{"id": []}]},
])  # fmt: skip
def test_values_that_the_format_does_not_allow_are_named(tmp_path, changes):
    draw_coco(tmp_path)
    path = tmp_path / "annotations/instances_train2017.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert refusal(tmp_path).startswith("annotations/instances_train2017.json")


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a": ' + "9" * 5000 + "}", "{", "\xff\0", "{}"])
def test_a_file_that_is_no_json_is_passed_over_and_named(tmp_path, caplog, text):
    for name in CLASSES:
        for number in range(10):
            photo(tmp_path / name / f"{name}{number}.jpg")
    write(tmp_path / "samples.json", text)
    with caplog.at_level(logging.WARNING):
        assert read(tmp_path).classes == CLASSES
    assert (text == "{}") == ("is passed over" not in caplog.text)
    assert "holds no fiftyone dataset" in refusal(tmp_path, layout="fiftyone")


@pytest.mark.parametrize("content", [{"labels": {"0": "cat"}}, {"files": []}, [1], {"images": 3},
                                     [{"data": 1}], {"samples": []}])  # fmt: skip
def test_other_files_beside_class_folders_are_no_export(tmp_path, content):
    for name in CLASSES:
        for number in range(10):
            photo(tmp_path / name / f"{name}{number}.jpg")
    write(tmp_path / "labels.json", content)
    assert read(tmp_path).classes == CLASSES


def test_a_file_of_absurd_size_is_not_read(tmp_path, monkeypatch, caplog):
    draw_fiftyone(tmp_path)
    monkeypatch.setattr(exports, "MOST_BYTES", 1 << 10)
    assert "36 photos without labels" in refusal(tmp_path)
    assert "at most" in caplog.text


def test_two_label_fields_without_ground_truth_are_refused_with_their_names(tmp_path):
    draw_fiftyone(tmp_path)
    path = tmp_path / "samples.json"
    path.write_text(path.read_text().replace("ground_truth", "mine"))
    assert "label fields: guess, mine" in refusal(tmp_path)


def test_a_row_of_another_length_and_a_mark_that_is_none_are_refused(tmp_path):
    draw_roboflow(tmp_path)
    path = tmp_path / "train/_classes.csv"
    path.write_text(path.read_text().replace("train3.jpg, 1, 1, 0", "train3.jpg, 1, 1")
                    .replace("train5.jpg, 0, 0, 1", "train5.jpg, 0, 0, yes"))  # fmt: skip
    message = refusal(tmp_path)
    assert "train/_classes.csv, line 5: has not as many fields as the header" in message
    assert "train/_classes.csv, line 7: 'newt' is 'yes', expected 0 or 1" in message


def test_what_prepare_made_of_the_photos_is_found_by_the_same_export(tmp_path):
    draw_imagefolder(tmp_path)
    for path in [*tmp_path.rglob("*.png")]:
        path.rename(path.with_suffix(".jpg"))
    assert "train/train0.jpg" in set(read(tmp_path).rows["filepath"])


def test_photos_that_no_entry_names_are_counted(tmp_path, caplog):
    draw_coco(tmp_path)
    photo(tmp_path / "train2017/extra.jpg")
    with caplog.at_level(logging.INFO):
        read(tmp_path)
    assert "1 photos that no label is about are left out, such as train2017/extra.jpg" in (
        caplog.text
    )


def test_one_split_alone_is_dealt_anew(tmp_path):
    draw_coco(tmp_path)
    for split in ("train", "test"):
        (tmp_path / f"annotations/instances_{split}2017.json").unlink()
    assert set(read(tmp_path).rows["split"]) == {"train", "val", "test"}

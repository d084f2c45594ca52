"""Datasets as tables: every layout is read, everything wrong is refused with file and row."""

import csv
import io
import json
import logging
import os
import random
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.prove import table_rows
from workbench.data import cells
from workbench.data.layouts import SPLITS
from workbench.data.tables import (
    Dataset,
    load_dataset,
    read_dataset,
    read_tables,
    write_dataset,
    write_tables,
)
from workbench.errors import DatasetError, MissingInputError
from workbench.settings import DatasetSettings, Settings

ANY = Settings(num_classes="auto")
SINGLE = Settings(num_classes="auto", task="single_label")
QUARANTINE = Settings(num_classes="auto", dataset=DatasetSettings(on_bad_image="quarantine"))
NO_EMPTY = Settings(num_classes="auto", dataset=DatasetSettings(allow_empty_labels=False))


class Folder:
    """A dataset under construction: tables with content, images that exist."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "images").mkdir(parents=True)
        for split, name in (("train", "a.jpg"), ("val", "b.jpg"), ("test", "c.jpg")):
            self.table(split, f"filepath,labels\n{name},cat|dog\n")
            self.image(name)

    def image(self, name: str, content: bytes = b"x") -> Path:
        path = self.root / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def table(self, split: str, text: str | bytes) -> None:
        data = text if isinstance(text, bytes) else text.encode()
        (self.root / f"{split}_labels.csv").write_bytes(data)

    def train(self, *rows: str, images: bool = True) -> None:
        """Write the training rows; the images they name exist unless told otherwise."""
        for row in rows if images else ():
            self.image(row.split(",")[0].strip())
        self.table("train", "filepath,labels\n" + "".join(f"{row}\n" for row in rows))

    def read(self, settings: Settings = ANY) -> Dataset:
        return read_dataset(self.root, settings)

    def refusal(self, settings: Settings = ANY) -> str:
        with pytest.raises(DatasetError) as caught:
            self.read(settings)
        return str(caught.value)


@pytest.fixture
def folder(tmp_path) -> Folder:
    return Folder(tmp_path / "pets")


def train_labels(dataset: Dataset) -> list[tuple[str, ...]]:
    return dataset.rows.loc[dataset.rows["split"] == "train", "labels"].tolist()


# Reading


def test_a_plain_dataset_is_read(folder):
    dataset = folder.read()
    assert dataset.classes == ("cat", "dog")
    assert dataset.rows["filepath"].tolist() == ["a.jpg", "b.jpg", "c.jpg"]
    assert dataset.rows["source"].tolist()[0] == "train_labels.csv"
    assert dataset.rows["line"].tolist() == [2, 2, 2]


def test_a_split_holds_targets_in_the_order_of_the_classes(folder):
    folder.train("a.jpg,dog", "d.jpg,zebra|cat", "e.jpg,")
    split = folder.read().split("train")
    assert split.classes == ("cat", "dog", "zebra")
    assert split.targets.tolist() == [[0, 1, 0], [1, 0, 1], [0, 0, 0]]
    assert split.targets.dtype == split.mask.dtype == np.float32


def test_a_question_mark_makes_a_label_unknown(folder):
    folder.train("a.jpg,cat|?dog")
    split = folder.read().split("train")
    assert split.targets.tolist() == [[1, 0]]
    assert split.mask.tolist() == [[1, 0]]


def test_class_order_is_by_code_point_in_every_locale(folder):
    folder.train("a.jpg,b|Z|a|É|_")
    assert folder.read().classes == ("Z", "_", "a", "b", "cat", "dog", "É")


@pytest.mark.parametrize(
    "name", ["NA", "null", "None", "nan", "007", "True", "1e3", "-1", "=x", "#N/A"]
)
def test_a_class_name_is_never_taken_for_a_value(folder, name):
    folder.train(f"a.jpg,{name}")
    assert train_labels(folder.read()) == [(name,)]


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_line_ends_and_byte_order_marks_do_no_harm(folder, line_end, mark):
    folder.image("d.jpg")
    rows = ["filepath,labels", "a.jpg,cat", "", "d.jpg,dog"]
    folder.table("train", mark + line_end.join(rows))
    assert train_labels(folder.read()) == [("cat",), ("dog",)]


def test_mixed_line_ends_do_no_harm(folder):
    folder.image("d.jpg")
    folder.table("train", "filepath,labels\r\na.jpg,cat\rd.jpg,dog\n")
    assert train_labels(folder.read()) == [("cat",), ("dog",)]


def test_spaces_around_values_do_no_harm(folder):
    folder.table("train", " filepath , labels \n a.jpg , cat | ? dog \n")
    row = folder.read().rows.iloc[0]
    assert (row["filepath"], row["labels"], row["unknown"]) == ("a.jpg", ("cat",), ("dog",))


def test_quotes_guard_commas_and_quotes(folder):
    folder.image('say "cheese", please.jpg')
    folder.table("train", 'filepath,labels\n"say ""cheese"", please.jpg","cat"\n')
    assert folder.read().rows["filepath"][0] == 'say "cheese", please.jpg'


@pytest.mark.parametrize(
    "name", ["with space.jpg", "smile 😀.jpg", "é" * 125 + ".jpg", "deep/er/a.jpg"]
)
def test_unusual_file_names_are_read(folder, name):
    folder.image(name)
    folder.train(f"{name},cat")
    assert folder.read().rows["filepath"][0] == name


def test_two_spellings_of_one_path_are_one_file(folder):
    folder.train("./a.jpg,cat", ".//a.jpg,cat", images=False)
    assert "a.jpg stands already in train_labels.csv, line 2" in folder.refusal()


# Refusals: the tables


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_missing_table_is_named(folder, split):
    (folder.root / f"{split}_labels.csv").unlink()
    assert f"{split}_labels.csv missing" in folder.refusal()


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(DatasetError, match="nowhere is not a folder"):
        read_dataset(tmp_path / "nowhere", ANY)


def test_a_folder_without_a_dataset_says_what_was_looked_for(tmp_path):
    with pytest.raises(DatasetError, match=r"train_labels\.csv nor train\.txt nor labels\.csv"):
        read_dataset(tmp_path, ANY)


def test_a_missing_images_folder_is_named(folder):
    (folder.root / "images").rename(folder.root / "pictures")
    assert "images does not exist" in folder.refusal()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "line 1: the header must be 'filepath,labels'; the file is empty"),
        ("filepath,labels\n", "train_labels.csv: no rows"),
        ("a.jpg,cat\n", "line 1: the header must be 'filepath,labels'; found 'a.jpg,cat'"),
        ("filepath;labels\na.jpg;cat\n", "columns are separated by ','"),
        ("filepath,label\na.jpg,cat\n", "found 'filepath,label'"),
        ("filepath,labels,score\na.jpg,cat,1\n", "found 'filepath,labels,score'"),
        ("filepath,filepath\na.jpg,cat\n", "found 'filepath,filepath'"),
        ("filepath,labels\na.jpg,cat,1\n", "line 2: 3 fields, expected 2"),
        ("filepath,labels\na.jpg\n", "line 2: 1 fields, expected 2"),
        ('filepath,labels\n\na.jpg,"cat\n', "line 3: unexpected end of data"),
        ('filepath,labels\n"a.jpg"x,cat\n', "line 2: ',' expected after"),
        ("filepath,labels\na\0.jpg,cat\n", "line 2: a NUL byte"),
        ('filepath,labels\n"a\n.jpg",cat\n', "line 2: 'a\\n.jpg' holds a control character"),
        ("filepath,labels\n,cat\n", "line 2: '' is empty"),
    ],
)
def test_a_wrong_table_is_refused_with_its_line(folder, text, words):
    folder.table("train", text)
    assert words in folder.refusal()
    assert "train_labels.csv" in folder.refusal()


def test_utf_16_is_refused_with_the_remedy(folder):
    folder.table("train", "filepath,labels\na.jpg,cat\n".encode("utf-16"))
    assert "UTF-16. Save it as UTF-8" in folder.refusal()


def test_latin_1_is_refused_with_its_line(folder):
    folder.table("train", "filepath,labels\na.jpg,cat\nd.jpg,café\n".encode("latin-1"))
    assert "line 3: byte 0xE9 is not UTF-8" in folder.refusal()


def test_a_huge_field_is_refused_rather_than_read(folder):
    folder.table("train", f"filepath,labels\na.jpg,{'x' * 200_000}\n")
    assert "line 2: field larger than field limit" in folder.refusal()


def test_a_table_of_wrong_rows_alone_is_not_called_empty(folder):
    folder.train("a.jpg,cat,1")
    assert "no rows" not in folder.refusal()


def test_lines_are_counted_across_quoted_line_ends(folder):
    folder.table("train", 'filepath,labels\n"a.jpg","cat\n|dog"\nmissing.jpg,cat\n')
    assert "line 4: images/missing.jpg does not exist" in folder.refusal()


def test_the_first_ten_problems_are_shown_and_the_rest_counted(folder):
    folder.train(*(f"{number}.jpg,cat" for number in range(13)), images=False)
    message = folder.refusal()
    assert message.count("does not exist") == 10
    assert "and 3 more" in message


# Refusals: labels and classes


@pytest.mark.parametrize("cell", ["a||b", "|a", "a|", "|", "a|?", "? |a"])
def test_an_empty_label_is_refused(folder, cell):
    folder.train(f"a.jpg,{cell}")
    assert "train_labels.csv, line 2" in folder.refusal()
    assert "empty name" in folder.refusal()


@pytest.mark.parametrize("cell", ["a|a", "a|?a", "a| a"])
def test_a_label_given_twice_is_refused(folder, cell):
    folder.train(f"a.jpg,{cell}")
    assert "'a' twice" in folder.refusal()


@pytest.mark.parametrize("separator", [",", ";", "/"])
def test_labels_joined_by_the_wrong_character_are_refused(folder, separator):
    folder.table("train", f'filepath,labels\na.jpg,"cat{separator}dog"\n')
    assert 'Join labels by "|"' in folder.refusal()
    assert "train_labels.csv, line 2" in folder.refusal()


def test_a_class_with_a_comma_of_its_own_is_read(folder):
    folder.table("train", 'filepath,labels\na.jpg,"bat, flying"\n')
    assert "bat, flying" in folder.read().classes


def test_an_unknown_label_that_no_image_has_is_taken_for_a_slip(folder):
    folder.train("a.jpg,cat|?dgo")
    assert 'Did you mean "dog"' in folder.refusal()
    assert "train_labels.csv, line 2" in folder.refusal()


@pytest.mark.parametrize(
    "twin", ["CAT", "c\uff41t", "\u0441at", "\u0421A\u0422", "cat\ufe0f"],
    ids=["case", "full width", "Cyrillic", "Cyrillic capitals", "variation selector"],
)  # fmt: skip
def test_classes_that_look_alike_are_refused(folder, twin):
    folder.train(f"a.jpg,{twin}")
    assert "look alike" in folder.refusal()
    assert "labels.csv, line 2" in folder.refusal()


def test_names_of_one_alphabet_differ_as_its_readers_see_them(folder):
    folder.train("a.jpg,\u043a\u043e\u0442", "d.jpg,\u043a\u0438\u0442")  # a cat and a whale
    assert {"\u043a\u043e\u0442", "\u043a\u0438\u0442"} <= set(folder.read().classes)


@pytest.mark.parametrize("blank", ["\u3164", "\u2800", "\u115f", "\u034f"])
def test_a_sign_that_draws_nothing_is_refused(folder, blank):
    folder.train(f"a.jpg,ca{blank}t")
    assert f"invisible U+{ord(blank):04X}" in folder.refusal()


def test_of_thousands_of_unheard_names_words_are_sought_for_the_first(folder, monkeypatch):
    """Each search goes through all classes: minutes, for lines that nobody reads."""
    sought = []
    monkeypatch.setattr(cells, "nearest", lambda name, names: sought.append(name) or "")
    asked = "|".join(f"?never{number:05d}" for number in range(4000))
    folder.train(f"a.jpg,cat|{asked}")
    message = folder.refusal()
    assert len(message.splitlines()) == 11 and message.endswith("… and 3990 more.")
    assert len(sought) == 10


def test_a_cell_of_megabytes_makes_a_short_message(folder):
    folder.train("a.jpg,ca\u3164t|" + "x" * 1_000_000 + "||")
    assert len(folder.refusal()) < 2000


def test_classes_that_differ_in_the_kind_of_space_are_refused(folder):
    folder.train("a.jpg,red fox", "d.jpg,red\u00a0fox")
    assert "look alike" in folder.refusal()


def test_composed_and_decomposed_accents_are_refused(folder):
    folder.train(f"a.jpg,{unicodedata.normalize('NFC', 'café')}")
    folder.table("val", f"filepath,labels\nb.jpg,{unicodedata.normalize('NFD', 'café')}\n")
    message = folder.refusal()
    assert "'caf\\xe9'" in message and "'cafe\\u0301'" in message


@pytest.mark.parametrize(
    "character", ["\u200b", "\u202e", "\u2066", "\x07", "\x1b", "\u2028", "\ue000", "\xad"]
)
def test_invisible_characters_in_a_class_are_refused(folder, character):
    folder.train(f"a.jpg,ca{character}t")
    assert f"U+{ord(character):04X}" in folder.refusal()


def test_a_line_end_in_a_class_is_refused(folder):
    folder.table("train", 'filepath,labels\na.jpg,"ca\nt"\n')
    assert "invisible U+000A" in folder.refusal()


def test_a_very_long_class_is_refused(folder):
    folder.train(f"a.jpg,{'x' * 201}")
    assert "201 characters, at most 200" in folder.refusal()


def test_the_wrong_number_of_classes_lists_what_was_found(folder):
    assert "Expected 7 classes, found 2: cat, dog" in folder.refusal(Settings())


def test_one_class_is_a_dataset(folder):
    for split, name in (("train", "a"), ("val", "b"), ("test", "c")):
        folder.table(split, f"filepath,labels\n{name}.jpg,cat\n")
    assert folder.read(Settings(num_classes=1)).classes == ("cat",)


@pytest.mark.slow
def test_ten_thousand_classes_are_a_dataset_and_one_more_is_not(folder):
    folder.train("a.jpg," + "|".join(f"k{number}" for number in range(9998)))
    assert len(folder.read().classes) == 10_000
    folder.train("a.jpg," + "|".join(f"k{number}" for number in range(9999)))
    assert "Found 10001 classes" in folder.refusal()


def test_a_dataset_without_any_label_is_refused(folder):
    for split, name in (("train", "a"), ("val", "b"), ("test", "c")):
        folder.table(split, f"filepath,labels\n{name}.jpg,\n")
    assert "No image has a label" in folder.refusal()


def test_a_class_that_only_validation_has_is_kept(folder):
    folder.table("val", "filepath,labels\nb.jpg,newt\n")
    dataset = folder.read()
    assert "newt" in dataset.classes
    assert dataset.split("train").targets[:, dataset.classes.index("newt")].sum() == 0


def test_empty_labels_are_an_image_with_none_of_the_classes(folder):
    folder.train("a.jpg,", "d.jpg,cat")
    assert folder.read().split("train").targets[0].sum() == 0


def test_empty_labels_are_refused_where_a_setting_says_so(folder):
    folder.train("a.jpg,cat", "d.jpg,")
    message = folder.refusal(NO_EMPTY)
    assert "line 3: no labels, and dataset.allow_empty_labels is false" in message


@pytest.mark.parametrize("cell", ["", "cat|dog", "cat|?dog", "?cat"])
def test_single_label_takes_exactly_one_class(folder, cell):
    folder.table("val", "filepath,labels\nb.jpg,cat\n")
    folder.table("test", "filepath,labels\nc.jpg,dog\n")
    folder.train(f"a.jpg,{cell}")
    assert "line 2: labels" in folder.refusal(SINGLE)


# Refusals: rows and files


def test_a_row_given_twice_is_refused_with_both_places(folder):
    folder.train("a.jpg,cat", "d.jpg,cat", "a.jpg,cat")
    message = folder.refusal()
    assert "train_labels.csv, line 4: a.jpg stands already in train_labels.csv, line 2" in message
    assert "with the same labels" in message


def test_a_row_given_twice_is_no_matter_of_letter_case(folder, caplog):
    folder.train("a.jpg,cat", "a.jpg,cat")
    folder.refusal()
    assert "letter case" not in caplog.text


def test_a_row_given_twice_with_other_labels_says_so(folder):
    folder.train("a.jpg,cat", "a.jpg,dog")
    assert "with other labels" in folder.refusal()


def test_a_file_in_two_splits_is_refused_with_both_places(folder):
    folder.table("val", "filepath,labels\na.jpg,cat|dog\n")
    message = folder.refusal()
    assert "val_labels.csv, line 2: a.jpg stands already in train_labels.csv, line 2" in message
    assert "in another split" in message


def test_a_missing_image_is_named_with_its_row(folder):
    folder.train("a.jpg,cat", "cat_7.jpg,cat")
    (folder.root / "images/cat_7.jpg").unlink()
    assert "train_labels.csv, line 3: images/cat_7.jpg does not exist." in folder.refusal()


def test_a_path_that_repeats_the_images_folder_is_hinted_at(folder):
    folder.train("images/a.jpg,cat", images=False)
    assert "Paths are relative to images/: leave it out" in folder.refusal()


def test_a_missing_image_that_exists_in_other_case_is_hinted_at(folder):
    folder.image("Photo.JPG")
    folder.train("photo.jpg,cat", images=False)
    assert "but 'Photo.JPG' does" in folder.refusal()


def test_a_missing_image_that_exists_with_other_accents_is_hinted_at(folder):
    folder.image(unicodedata.normalize("NFD", "café.jpg"))
    folder.train(unicodedata.normalize("NFC", "café.jpg") + ",cat", images=False)
    assert "'cafe\\u0301.jpg' does" in folder.refusal()


@pytest.mark.parametrize(
    "path",
    [
        "../secret.jpg",
        "deep/../../secret.jpg",
        "/etc/passwd",
        "~/a.jpg",
        "C:\\a.jpg",
        "deep\\a.jpg",
        "file:///etc/passwd",
        "gs://bucket/a.jpg",
        "https://example.org/a.jpg",
    ],
)
def test_a_path_that_could_leave_the_images_is_refused(folder, path):
    (folder.root / "secret.jpg").write_bytes(b"x")
    folder.train(f"{path},cat", images=False)
    message = folder.refusal(QUARANTINE)
    assert "train_labels.csv, line 2" in message
    assert "does not exist" not in message


def test_two_dots_inside_a_name_are_a_name(folder):
    folder.train("a..b.jpg,cat")
    assert folder.read().rows["filepath"][0] == "a..b.jpg"


def test_a_link_out_of_the_images_is_refused(folder, tmp_path):
    (tmp_path / "outside.jpg").write_bytes(b"x")
    (folder.root / "images/link.jpg").symlink_to(tmp_path / "outside.jpg")
    folder.train("link.jpg,cat", images=False)
    assert "is a link out of" in folder.refusal(QUARANTINE)


def test_a_linked_folder_outside_is_refused(folder, tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/a.jpg").write_bytes(b"x")
    (folder.root / "images/deep").symlink_to(tmp_path / "outside")
    folder.train("deep/a.jpg,cat", images=False)
    assert "leads out of" in folder.refusal(QUARANTINE)


def test_a_link_inside_the_images_is_read(folder):
    (folder.root / "images/link.jpg").symlink_to("a.jpg")
    folder.train("link.jpg,cat", images=False)
    assert folder.read().rows["filepath"][0] == "link.jpg"


def test_a_loop_of_links_is_refused(folder):
    (folder.root / "images/loop").symlink_to("loop")
    folder.train("loop/a.jpg,cat", "loop,cat", images=False)
    message = folder.refusal()
    assert "line 2" in message and "line 3" in message


def test_a_folder_named_as_an_image_is_refused(folder):
    (folder.root / "images/d.jpg").mkdir()
    folder.train("d.jpg,cat", images=False)
    assert "images/d.jpg is a folder" in folder.refusal()


def test_a_pipe_named_as_an_image_is_refused(folder):
    os.mkfifo(folder.root / "images/d.jpg")
    folder.train("d.jpg,cat", images=False)
    assert "pipe, socket or device" in folder.refusal()


def test_names_that_differ_in_case_only_are_warned_of(folder, caplog):
    folder.train("a.jpg,cat", "A.jpg,dog")
    if len(list((folder.root / "images").glob("[aA].jpg"))) < 2:
        pytest.skip("this file system knows no letter case")
    with caplog.at_level(logging.WARNING):
        folder.read()
    assert "differ only in letter case" in caplog.text


# Quarantine


def test_quarantine_goes_on_and_lists_what_is_missing(folder):
    folder.train("a.jpg,cat", "gone.jpg,dog", images=False)
    dataset = folder.read(QUARANTINE)
    assert dataset.split("train").filepaths == ("a.jpg",)
    row = dataset.quarantine.iloc[0]
    assert (row["filepath"], row["source"], row["line"]) == ("gone.jpg", "train_labels.csv", 3)
    assert "does not exist" in row["reason"]


def test_images_found_bad_later_join_the_quarantine(folder):
    folder.train("a.jpg,cat", "d.jpg,dog", "gone.jpg,dog")
    (folder.root / "images/gone.jpg").unlink()
    dataset = folder.read(QUARANTINE).without({"d.jpg": "is truncated"})
    assert dataset.quarantine["filepath"].tolist() == ["gone.jpg", "d.jpg"]
    assert dataset.split("train").filepaths == ("a.jpg",)


def test_nothing_bad_changes_nothing(folder):
    dataset = folder.read()
    assert dataset.without({}) is dataset


# Other layouts


@pytest.mark.parametrize("separator", ["\t", ","])
def test_txt_splits_are_read(tmp_path, separator):
    (tmp_path / "images").mkdir()
    for split in ("train", "val", "test"):
        (tmp_path / f"images/{split},1.jpg").touch()
        (tmp_path / f"images/{split}2.jpg").touch()
        text = f"{split},1.jpg{separator}cat|dog\n{split}2.jpg{separator}\n"
        (tmp_path / f"{split}.txt").write_text(text)
    dataset = read_dataset(tmp_path, ANY)
    assert dataset.rows["labels"].tolist() == [("cat", "dog"), ()] * 3


def test_a_txt_line_without_a_separator_is_refused(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.jpg").touch()
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}.txt").write_text("a.jpg cat\n")
    with pytest.raises(DatasetError, match=r"train\.txt, line 1: 'a\.jpg cat' has no tab or comma"):
        read_dataset(tmp_path, ANY)


@pytest.fixture
def class_folders(tmp_path) -> Path:
    for name in ("cat", "dog", "..hidden", "CON", "newt"):
        (tmp_path / name).mkdir()
        for number in range(10):
            (tmp_path / name / f"{number}.jpg").write_bytes(f"{name}{number}".encode())
    return tmp_path


def test_class_folders_are_split_by_the_workbench(class_folders):
    dataset = read_dataset(class_folders, SINGLE)
    assert dataset.classes == ("CON", "cat", "dog", "newt")
    counts = dataset.rows.groupby(["split", "labels"]).size().unstack(0)
    assert (counts[["train", "val", "test"]] == [8, 1, 1]).all(axis=None)


def test_the_split_does_not_depend_on_the_order_of_the_listing(class_folders, monkeypatch):
    first = read_dataset(class_folders, SINGLE).rows
    walk = os.walk

    def shuffled(*args, **kwargs):
        for root, folders, names in walk(*args, **kwargs):
            yield root, folders, random.Random(7).sample(names, len(names))

    monkeypatch.setattr(os, "walk", shuffled)
    assert read_dataset(class_folders, SINGLE).rows.equals(first)


def test_another_seed_splits_otherwise(class_folders):
    first = read_dataset(class_folders, SINGLE).rows
    other = Settings(num_classes="auto", task="single_label", seed=2)
    assert not read_dataset(class_folders, other).rows["split"].equals(first["split"])


def test_litter_of_file_managers_is_passed_over(class_folders):
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._0.jpg"):
        (class_folders / "cat" / name).touch()
    (class_folders / ".git").mkdir()
    assert len(read_dataset(class_folders, SINGLE).rows) == 40


def test_a_file_that_is_no_image_in_a_class_folder_is_refused(class_folders):
    (class_folders / "cat/notes.txt").touch()
    with pytest.raises(DatasetError, match=r"notes\.txt: is not an image"):
        read_dataset(class_folders, SINGLE)


def test_notes_beside_the_class_folders_are_passed_over(class_folders):
    (class_folders / "readme.md").touch()
    (class_folders / "config.yaml").touch()
    assert read_dataset(class_folders, SINGLE).classes == ("CON", "cat", "dog", "newt")


def test_an_image_beside_the_class_folders_is_refused(class_folders):
    (class_folders / "lost.jpg").touch()
    with pytest.raises(DatasetError, match=r"lost\.jpg: is an image outside"):
        read_dataset(class_folders, SINGLE)


def test_a_linked_class_folder_is_refused(class_folders):
    (class_folders / "more").symlink_to(class_folders / "cat")
    with pytest.raises(DatasetError, match=r"more: is a link to a folder"):
        read_dataset(class_folders, SINGLE)


def test_a_run_folder_inside_the_dataset_is_not_taken_for_a_class(class_folders):
    (class_folders / "outputs/demo").mkdir(parents=True)
    (class_folders / "outputs/demo/confusion_matrix.png").touch()
    (class_folders / "outputs/demo/metrics.json").touch()
    with pytest.raises(DatasetError, match=r"metrics\.json: is not an image"):
        read_dataset(class_folders, SINGLE)


@pytest.mark.parametrize("name", ["a|b", "?cat", " cat"])
def test_a_class_folder_that_would_break_the_tables_is_refused(class_folders, name):
    (class_folders / name).mkdir()
    (class_folders / name / "1.jpg").touch()
    with pytest.raises(DatasetError, match="class folder"):
        read_dataset(class_folders, SINGLE)


def test_class_folders_below_images_and_deeper_folders_are_read(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "images" / name / "deep").mkdir(parents=True)
        for number in range(5):
            (tmp_path / "images" / name / "deep" / f"{name}{number}.PNG").write_text(
                f"{name}{number}"
            )
    dataset = read_dataset(tmp_path, SINGLE)
    assert dataset.classes == ("cat", "dog")
    assert "cat/deep/cat0.PNG" in dataset.rows["filepath"].tolist()


def test_class_folders_inside_split_folders_keep_their_split(tmp_path):
    for split in ("train", "val", "test"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            (tmp_path / split / name / "1.jpg").touch()
    dataset = read_dataset(tmp_path, SINGLE)
    assert dataset.classes == ("cat", "dog")
    assert dataset.split("val").filepaths == ("val/cat/1.jpg", "val/dog/1.jpg")


@pytest.mark.parametrize("names", [{"train": "training", "val": "valid", "test": "Test"},
                                   {"train": "train", "test": "test"},
                                   {"train": "Training", "val": "validation"}])  # fmt: skip
def test_split_folders_have_the_names_that_people_give_them(tmp_path, names):
    for place in names.values():
        for number in range(20):
            for name in ("cat", "dog"):
                path = tmp_path / place / name / f"{number}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(str(path))
    rows = read_dataset(tmp_path, SINGLE).rows
    assert set(rows["labels"]) == {("cat",), ("dog",)} and set(rows["split"]) == {*SPLITS}
    for split in {"val", "test"} & names.keys():
        found = rows["filepath"][rows["split"] == split].str.partition("/")[0]
        assert set(found) == {names[split]} and len(found) == 40


@pytest.mark.parametrize("place", ["", "images", "zip", "zip/inner", "train"])
def test_class_folders_are_found_where_people_put_them(tmp_path, place):
    (tmp_path / "images").mkdir()  # as `new` leaves it
    for name in ("cat", "dog"):
        for number in range(5):
            path = tmp_path / place / name / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(str(path))
    dataset = read_dataset(tmp_path, SINGLE)
    assert dataset.classes == ("cat", "dog") and len(dataset.rows) == 10
    assert all((dataset.images / path).is_file() for path in dataset.rows["filepath"])


def test_photos_without_labels_are_told_where_they_go(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.jpg").touch()
    with pytest.raises(DatasetError) as caught:
        read_dataset(tmp_path, ANY)
    assert "1 photos without labels" in str(caught.value)
    assert f"like {tmp_path}/images/cat" in str(caught.value)


def test_a_folder_alone_is_no_class(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.jpg").touch()
    with pytest.raises(DatasetError, match="holds no dataset"):
        read_dataset(tmp_path, SINGLE)


@pytest.mark.parametrize("marks", [";|", "\t,", ",/"])
def test_a_table_may_use_the_separators_that_are_named(folder, marks):
    column, label = marks
    for split, name in (("train", "a.jpg"), ("val", "b.jpg"), ("test", "c.jpg")):
        rows = [("filepath", "labels"), (name, label.join(["cat", "dog"]))]
        text = io.StringIO()
        csv.writer(text, delimiter=column).writerows(rows)
        folder.table(split, text.getvalue())
    named = DatasetSettings(separator=column, label_separator=label)
    dataset = read_dataset(folder.root, Settings(num_classes="auto", dataset=named))
    assert train_labels(dataset) == [("cat", "dog")]


def test_a_name_that_is_not_utf_8_is_refused(class_folders):
    try:
        (class_folders / "cat" / os.fsdecode(b"caf\xe9.jpg")).touch()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(DatasetError, match="not UTF-8"):
        read_dataset(class_folders, SINGLE)


@pytest.fixture
def one_table(tmp_path) -> Path:
    (tmp_path / "images").mkdir()
    rows = []
    rng = np.random.default_rng(0)
    photos = rng.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
    photos[1:12] = photos[0]
    for number, photo in enumerate(photos):
        picture = Image.fromarray(photo).resize((64, 64), Image.Resampling.BICUBIC)
        picture.save(tmp_path / f"images/{number}.jpg", quality=95 - number)
        rows.append(f"{number}.jpg,{'cat' if number % 2 else 'cat|dog'}\n")
    (tmp_path / "labels.csv").write_text("filepath,labels\n" + "".join(rows))
    return tmp_path


def test_one_table_is_split_and_copies_of_a_photo_stay_together(one_table):
    rows = read_dataset(one_table, ANY).rows.set_index("filepath")
    assert rows["split"].value_counts().to_dict() == {"train": 48, "val": 6, "test": 6}
    assert rows.loc[[f"{number}.jpg" for number in range(12)], "split"].nunique() == 1


def test_a_dataset_on_read_only_media_is_read_and_left_alone(one_table):
    before = sorted((path, path.stat().st_mtime_ns) for path in one_table.rglob("*"))
    read_dataset(one_table, ANY)
    assert sorted((path, path.stat().st_mtime_ns) for path in one_table.rglob("*")) == before


# Writing


def round_trip(dataset: Dataset, folder: Path) -> Dataset:
    write_tables(dataset, folder)
    return read_tables(folder, dataset.images)


def test_written_tables_give_the_dataset_back(folder, tmp_path):
    folder.train("a.jpg,cat|?dog", "d.jpg,", "gone.jpg,dog")
    (folder.root / "images/gone.jpg").unlink()
    dataset = folder.read(QUARANTINE)
    again = round_trip(dataset, tmp_path / "run")
    columns = ["split", "filepath", "labels", "unknown"]
    assert again.rows[columns].equals(dataset.rows[columns])
    assert again.classes == dataset.classes
    assert again.quarantine["reason"].tolist() == dataset.quarantine["reason"].tolist()


def test_labels_txt_has_one_class_a_line(folder, tmp_path):
    write_tables(folder.read(), tmp_path / "run")
    assert (tmp_path / "run/labels.txt").read_text() == "cat\ndog\n"


@pytest.mark.parametrize("name", ["=1+1", "+a", "-a", "@a", "'=a", "''", 'a"b', "a,b", "'"])
def test_no_written_cell_starts_a_formula_and_all_come_back(folder, tmp_path, name):
    buffer = io.StringIO()
    csv.writer(buffer).writerows([("filepath", "labels"), (f"{name}.jpg", f"{name}|zz")])
    folder.image(f"{name}.jpg")
    if name.startswith("'="):  # from the outside a guarded cell means the cell that it guards
        buffer = io.StringIO(f"filepath,labels\n'{name}.jpg,'{name}|zz\n")
    folder.table("train", buffer.getvalue())
    dataset = folder.read()
    again = round_trip(dataset, tmp_path / "run")
    assert again.rows["filepath"][0] == f"{name}.jpg"
    assert name in again.rows["labels"][0]
    written = (tmp_path / "run/train_labels.csv").read_text().splitlines()[1]
    assert not written.startswith(("=", "+", "-", "@"))


def test_naughty_names_survive_from_table_to_table(folder, tmp_path):
    names = [
        "<script>alert(1)</script>",
        "$\\frac{$",
        "{{7*7}}",
        "`rm -rf`",
        "Ω≈ç√",
        "田中さん",
        "مرحبا",
    ]
    buffer = io.StringIO()
    csv.writer(buffer).writerows([("filepath", "labels"), ("a.jpg", "|".join(names))])
    folder.table("train", buffer.getvalue())
    dataset = folder.read()
    assert set(names) <= set(round_trip(dataset, tmp_path / "run").classes)


def in_a_run(folder: Folder) -> tuple[Dataset, dict]:
    """Write the dataset into a run folder beside it, as notebook 01 does."""
    dataset = folder.read()
    sha256 = dict.fromkeys(dataset.rows["filepath"], "0")
    root = folder.root.parent
    return dataset, write_dataset(dataset, root / "run", root, task="multilabel", sha256=sha256)


def test_later_notebooks_get_the_dataset_that_the_first_one_wrote(folder, tmp_path):
    folder.train("a.jpg,cat|?dog")
    dataset, _ = in_a_run(folder)
    again = load_dataset(tmp_path / "run", tmp_path)
    assert again.classes == dataset.classes and again.images == dataset.images
    assert np.array_equal(again.split("train").mask, [[1, 0]])


def test_a_run_moved_with_its_project_still_finds_its_images(folder, tmp_path):
    in_a_run(folder)
    moved = tmp_path.rename(tmp_path.with_name("moved_project"))
    assert load_dataset(moved / "run", moved).images == moved / "pets/images"


def test_another_label_changes_the_digest_of_the_content(folder):
    _, before = in_a_run(folder)
    folder.train("a.jpg,cat")
    assert in_a_run(folder)[1]["content_sha256"] != before["content_sha256"]


def test_without_a_manifest_the_first_notebook_is_named(tmp_path):
    with pytest.raises(MissingInputError, match=r"No dataset_manifest\.json.*01_dataset_audit"):
        load_dataset(tmp_path, tmp_path)


def test_images_that_are_gone_are_named_with_their_place(folder, tmp_path):
    in_a_run(folder)
    (folder.root / "images").rename(tmp_path / "elsewhere")
    with pytest.raises(MissingInputError, match=r"pets/images, which is gone"):
        load_dataset(tmp_path / "run", tmp_path)


def test_tables_that_do_not_fit_their_labels_txt_are_refused(folder, tmp_path):
    write_tables(folder.read(), tmp_path / "run")
    (tmp_path / "run/labels.txt").write_text("cat\n")
    with pytest.raises(DatasetError, match=r"'dog' is not in labels\.txt"):
        read_tables(tmp_path / "run", folder.root / "images")


def test_a_cut_table_of_ours_is_refused(folder, tmp_path):
    write_tables(folder.read(), tmp_path / "run")
    (tmp_path / "run/val_labels.csv").write_text("filepath,lab")
    with pytest.raises(DatasetError, match=r"val_labels\.csv is damaged"):
        read_tables(tmp_path / "run", folder.root / "images")


# Scale


def test_the_proof_of_many_rows_reads_every_one():
    assert table_rows.run(rows=1000)["positives"] == [400, 400, 200]


def shared_texts(pattern: str) -> list[Path]:
    folder = os.environ.get("WORKBENCH_SHARED")
    return sorted(Path(folder, "corpora").glob(pattern)) if folder else []


@pytest.mark.parametrize(
    "path", shared_texts("csv-spectrum/csvs/*.csv"), ids=lambda path: path.name
)
def test_foreign_csv_files_are_refused_not_crashed_on(folder, path):
    folder.table("train", path.read_bytes())
    folder.refusal()


@pytest.mark.parametrize(
    "path", shared_texts("naughty-strings/blns.json"), ids=lambda path: path.name
)
def test_naughty_strings_are_classes_or_refused(folder, path):
    accepted = 0
    for name in json.loads(path.read_text()):
        if "|" in name or name.startswith("?"):
            continue
        buffer = io.StringIO()
        csv.writer(buffer).writerows([("filepath", "labels"), ("a.jpg", name)])
        folder.table("train", buffer.getvalue())
        try:
            labels = train_labels(folder.read())
        except DatasetError:
            continue
        assert labels == [(name.strip(),)] or not name.strip()
        accepted += 1
    assert accepted > 300


def test_real_photos_are_read():
    folder = os.environ.get("WORKBENCH_SHARED")
    if not folder:
        pytest.skip("WORKBENCH_SHARED is not set")
    assert len(read_dataset(Path(folder, "data/blood_cells"), Settings(num_classes=3)).rows) == 364
    dataset = read_dataset(
        Path(folder, "data/sign_digits"), Settings(num_classes=10, task="single_label")
    )
    assert len(dataset.rows) == 2062

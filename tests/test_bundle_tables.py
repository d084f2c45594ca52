"""The tables of notebook 08: both ends of the model apart, a bundle at a glance."""

import json

from tests.deploy_doubles import INTEGERS, make_bundle
from workbench.artifacts import InferenceConfig
from workbench.show.bundle_tables import (
    MOST_NAMED,
    contents,
    golden,
    golden_image,
    ports,
    thresholds,
)


def test_both_ends_keep_their_own_numbers(tmp_path):
    config = InferenceConfig.read(make_bundle(tmp_path))
    frame = ports(config).frame.set_index("property")
    assert frame.loc["dtype"].tolist() == ["uint8", "int8"]
    assert frame.loc["width"].tolist() == ["16", "–"]
    assert frame.loc["is_logits"].tolist() == ["–", "True"]


def test_thresholds_are_shown_class_by_class(tmp_path):
    frame = thresholds(InferenceConfig.read(make_bundle(tmp_path))).frame
    assert frame["integer"].tolist() == list(INTEGERS)


def test_a_folder_of_many_files_is_told_by_their_number(tmp_path):
    names = ["labels.txt", *(f"golden/{n}.bin" for n in range(MOST_NAMED + 1))]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * 1024)
    frame = contents([tmp_path / name for name in names]).frame.set_index("folder")
    assert frame.loc["."].tolist() == ["labels.txt", 1.0]
    assert frame.loc["golden"].tolist() == [f"{MOST_NAMED + 1} files", MOST_NAMED + 1]


def test_golden_images_are_listed_and_drawn(tmp_path):
    vectors = json.loads((make_bundle(tmp_path) / "golden/vectors.json").read_text())["vectors"]
    assert golden(vectors).frame["true labels"].tolist() == ["ant"] * 3
    figure = golden_image(tmp_path, vectors[0])
    assert [ax.get_title(loc="left") for ax in figure.axes] == [
        "decoded, 40 x 25", "letterboxed, 16 x 16",
    ]  # fmt: skip

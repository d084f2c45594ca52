"""The tables of notebook 08: both ends of the model apart, a bundle at a glance."""

from workbench.show.bundle_tables import MOST_NAMED, contents, ports


def test_both_ends_keep_their_own_numbers():
    config = {
        "input": {"width": 64, "dtype": "uint8"},
        "output": {"dtype": "int8", "is_logits": True},
    }
    frame = ports(config).frame.set_index("property")
    assert frame.loc["dtype"].tolist() == ["uint8", "int8"]
    assert frame.loc["width"].tolist() == ["64", "–"]
    assert frame.loc["is_logits"].tolist() == ["–", "True"]


def test_a_folder_of_many_files_is_told_by_their_number(tmp_path):
    names = ["labels.txt", *(f"golden/{n}.bin" for n in range(MOST_NAMED + 1))]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * 1024)
    frame = contents([tmp_path / name for name in names]).frame.set_index("folder")
    assert frame.loc["."].tolist() == ["labels.txt", 1.0]
    assert frame.loc["golden"].tolist() == [f"{MOST_NAMED + 1} files", MOST_NAMED + 1]

"""Many runs are ranked on validation, marked with a reason, and listed whatever became of them."""

import csv
import io
import json
import shutil

import numpy as np
import pytest

from tests.browser import Opened, chromium
from tests.sweep_doubles import CLASSES, IMAGES, draw_folds, draw_run, fail
from workbench.cli.main import main
from workbench.effects import effects, importance, seed_spread
from workbench.errors import InputError
from workbench.files import write_json
from workbench.leaderboard import leaderboard
from workbench.run import Run
from workbench.settings import Settings
from workbench.show.standings import page, text


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Two dropouts with two seeds, one of each size of network, and runs that went wrong."""
    root = tmp_path_factory.mktemp("outputs") / "my_sweep"
    for dropout, lift in ((0.2, 0.4), (0.4, 1.6)):
        for seed in (1, 2):
            draw_run(root / f"dropout-{dropout}_seed-{seed}", lift, noise=seed, seed=seed,
                     student__dropout=dropout, numbers=1000 if seed == 1 else 100)  # fmt: skip
    draw_run(root / "only_03", 3, network="teacher")
    fail(draw_run(root / "broken", 1, network="teacher"), "04", "it ran\nout of memory")
    shutil.copytree(root / "only_03", root / "damaged")
    (root / "damaged" / "training_config.json").write_text('{"seed": ')
    shutil.copytree(root / "dropout-0.2_seed-1", root / "foreign")
    (root / "foreign" / "student_scores.npz").write_bytes(b"PK\3\4 torn")
    (root / "notes").mkdir()
    return root


@pytest.fixture(scope="module")
def board(sweep):
    return leaderboard(sweep)


def line_of(board, run):
    return next(line for line in text(board).splitlines() if f" {run} " in line)


def test_the_better_runs_come_first_and_the_worse_are_called_so(board):
    runs = board.ranking.table.set_index("run")
    assert [name[:11] for name in runs.index] == ["dropout-0.4"] * 2 + ["dropout-0.2"] * 2
    assert runs["verdict"].tolist()[0] == "best" and set(runs["verdict"][2:]) == {"worse"}
    assert (runs["difference_high"][2:] < 0).all()


def test_the_smallest_of_those_not_told_apart_is_taken_and_the_reason_said(board):
    assert board.chosen == "dropout-0.4_seed-2"
    assert text(board).startswith(f"Take {board.chosen}: ")
    assert board.why == "the best; 1 more cannot be told from it, none of them smaller" or (
        "not clearly worse than dropout-0.4_seed-1" in board.why and "MB in place of" in board.why
    )


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ("only_03", "to 03: no student_scores.npz"),
        ("broken", "failed at 04: it ran"),
        ("damaged", "unreadable: training_config.json is not valid JSON"),
        ("foreign", "student_scores.npz is damaged. Run 04_distill_student again"),
    ],
)
def test_a_run_without_a_rank_has_one_line_with_its_state_and_reason(board, run, words):
    assert words in line_of(board, run)
    assert line_of(board, run).startswith("–")


def test_a_folder_that_holds_no_run_is_left_out(board):
    assert "notes" not in {entry.name for entry in board.entries}


def test_only_knobs_that_differ_are_named(board):
    assert set(board.differing) == {"seed", "student.dropout"}


def test_the_effect_of_a_knob_is_the_mean_over_the_others(board):
    rows = board.effects.set_index(["knob", "value"])
    own = board.ranking.table.set_index("run")["value"]
    expected = own[[name for name in own.index if "0.4" in name]].mean()
    assert rows.loc[("student.dropout", "0.4"), "mean"] == pytest.approx(expected)
    assert board.effects["knob"].iloc[0] == "student.dropout"
    assert "differ in nothing but the seed" in text(board)


def test_the_luck_of_the_best_of_many_is_said(board):
    assert "is best partly by luck" in text(board)
    assert board.ranking.corrected <= board.ranking.table["value"].iloc[0]


def test_test_images_are_never_read(sweep, board, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(sweep, copy)
    for folder in copy.iterdir():
        (folder / "test_scores.npz").write_bytes(b"not to be read")
        (folder / "metrics.json").write_text('{"test": "not to be read"}')
    assert leaderboard(copy).ranking.table.equals(board.ranking.table)


def test_teachers_are_ranked_where_asked(sweep):
    found = leaderboard(sweep, network="teacher").ranking.table["run"].tolist()
    assert set(found) == {"only_03", "broken"}


def test_runs_may_be_ranked_by_another_figure(sweep):
    assert leaderboard(sweep, figure="map").ranking.figure == "map"
    with pytest.raises(InputError, match='not ranked by "recall"'):
        leaderboard(sweep, figure="recall")


def test_a_sweep_says_what_it_ranks_by_and_why_a_run_was_stopped(sweep, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(sweep, copy)
    trials = [{"name": "only_03", "state": "pruned", "reason": "worse than the median"},
              {"name": "never", "state": "waiting"}]  # fmt: skip
    write_json(copy / "sweep.json", {"rank": {"figure": "map", "of": "student"}, "trials": trials})
    found = leaderboard(copy)
    assert found.ranking.figure == "map"
    assert "pruned: worse than the median" in line_of(found, "only_03")
    assert "waiting" in text(found).splitlines()[[" never" in line for line in
                                                 text(found).splitlines()].index(True)]  # fmt: skip


def test_a_search_says_which_knobs_mattered(tmp_path):
    for number in range(10):
        draw_run(tmp_path / f"trial-{number}", 0.2 * number, noise=number % 2,
                 student__dropout=0.05 * number, seed=number % 3)  # fmt: skip
    assert leaderboard(tmp_path).importance == {}
    write_json(tmp_path / "sweep.json", {"spec": {"search": {"trials": 10}}, "trials": []})
    found = leaderboard(tmp_path)
    assert found.importance == {"student.dropout": pytest.approx(1)}
    assert "student.dropout: 100%" in page(found)


@pytest.mark.parametrize("held", [b"{", b"[1]", b'{"trials": [3, {"name": 4}], "rank": 7}'])
def test_a_damaged_sweep_file_does_not_hide_its_runs(sweep, tmp_path, held):
    copy = tmp_path / "copy"
    shutil.copytree(sweep, copy)
    (copy / "sweep.json").write_bytes(held)
    assert len(leaderboard(copy).ranking.table) == 4


def test_a_run_of_other_images_is_listed_and_not_ranked(sweep, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(sweep, copy)
    draw_run(copy / "one_fold", 3, dataset__folds=3, dataset__fold=1)
    found = leaderboard(copy)
    assert "validated on other images" in line_of(found, "one_fold")
    assert len(found.ranking.table) == 4


def test_nothing_to_rank_says_what_is_missing(tmp_path):
    draw_run(tmp_path / "a", 1)
    (tmp_path / "a" / "student_scores.npz").unlink()
    with pytest.raises(InputError, match="Run 03_train_teacher first"):
        leaderboard(tmp_path)


def test_a_notebook_shows_the_value_itself(board):
    assert "<table>" in board._repr_html_()
    assert repr(board) == text(board)


def test_a_run_compares_itself_with_several_others(sweep):
    folders = [sweep / f"dropout-{name}" for name in ("0.4_seed-1", "0.4_seed-2", "0.2_seed-1")]
    one, *others = (Run(folder, Settings(), sweep) for folder in folders)
    assert len(one.compare(*others).ranking.table) == 3


def test_the_command_writes_page_and_table_beside_the_runs(sweep, capsys):
    assert main(["leaderboard", str(sweep), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["best"].startswith("dropout-0.4")
    assert (sweep / "leaderboard.html").exists()
    rows = list(csv.DictReader(io.StringIO((sweep / "leaderboard.csv").read_text())))
    assert [row["rank"] for row in rows[:4]] == ["1", "2", "3", "4"]
    assert rows[0]["student.dropout"] == "0.4"
    assert {row["state"] for row in rows} >= {"to 04", "to 03", "failed at 04", "unreadable"}


def test_a_folder_without_runs_exits_2(tmp_path, capsys):
    assert main(["leaderboard", str(tmp_path)]) == 2
    assert "holds no run folder" in capsys.readouterr().err


@pytest.mark.slow
def test_the_page_opens_offline_and_names_stay_text(tmp_path):
    root, name = tmp_path / "hostile", "<img src=x onerror=document.title='owned'>"
    draw_folds(root, 3)
    draw_run(root / name, 1, dataset__dir="<script>document.title='owned'</script>")
    path = tmp_path / "page.html"
    path.write_text(page(leaderboard(root)), encoding="utf-8")
    with chromium() as browser:
        shown = Opened(browser, path)
        assert shown.page.title() == "hostile"
        assert shown.page.locator("script").count() == 0
        assert shown.page.locator("td", has_text=CLASSES[1]).count() > 0
        assert shown.page.locator("td", has_text=name).count() > 0
        assert shown.page.locator("img:not([alt])").count() == 0
        assert {url.split(":")[0] for url in shown.requests} <= {"file", "data"}
        assert shown.complaints == []


def test_folds_are_one_entry_that_answers_every_image(tmp_path):
    draw_folds(tmp_path, 4, lift=2)
    draw_run(tmp_path / "plain", 0.3)
    found = leaderboard(tmp_path)
    assert found.ranking.images == IMAGES
    assert found.chosen == f"{tmp_path.name} folds"
    overall, classes = found.folds[found.chosen]
    assert overall["folds"].max() == 4 and set(classes["class"]) == set(CLASSES)


def test_an_unfinished_k_fold_has_no_rank(tmp_path):
    for folder in draw_folds(tmp_path / "some", 4)[3:]:
        shutil.rmtree(folder)
    draw_run(tmp_path / "some" / "plain", 0.3)
    line = line_of(leaderboard(tmp_path / "some"), "some folds")
    assert "3 of 4 folds, to 04: lacks fold 3" in line


# What knobs do, without run folders.


def test_knobs_that_always_change_together_stand_in_one_row():
    knobs = [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}, {"a": 1, "b": "x"}]
    found = effects(knobs, [0.1, 0.4, 0.3])
    assert found[["knob", "value", "mean"]].values.tolist() == [
        ["a, b", "1, x", pytest.approx(0.2)],
        ["a, b", "2, y", 0.4],
    ]


def test_many_values_of_a_number_are_shown_in_quarters():
    rates = np.geomspace(1e-5, 1e-1, 20)
    found = effects([{"lr": float(rate)} for rate in rates], rates)
    assert len(found) == 4 and found["runs"].tolist() == [5] * 4
    assert found["value"].iloc[0].startswith("1e-05 to ")


def test_the_spread_of_seeds_is_that_of_the_noise():
    rng = np.random.default_rng(0)
    knobs = [{"seed": seed, "a": a} for a in range(40) for seed in range(4)]
    values = [run["a"] + rng.normal(0, 0.3) for run in knobs]
    assert seed_spread(knobs, values).deviation == pytest.approx(0.3, rel=0.15)
    assert seed_spread([{"seed": 1, "a": 1}, {"seed": 2, "a": 2}], [0, 1]) is None


def test_importance_goes_to_the_knob_that_moves_the_figure():
    rng = np.random.default_rng(0)
    knobs = [{"lr": float(lr), "arch": str(rng.integers(3))} for lr in np.geomspace(1e-5, 1, 30)]
    found = importance(knobs, [np.log10(run["lr"]) for run in knobs])
    assert found["lr"] > 0.8
    assert importance(knobs[:5], range(5)) == {}

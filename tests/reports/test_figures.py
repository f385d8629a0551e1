from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from kto_lab.errors import LabError
from kto_lab.reports import load
from kto_lab.reports.figure_parts import COLOURS
from kto_lab.reports.figures import frontier, plot
from kto_lab.reports.specs import KINDS, FigureSpec
from kto_lab.sweeps.contrasts import Choose
from tests.reports.study_folders import by_rate, fail, grid, write_run, write_study

RATES = {"kto": 0.8, "dpo": 0.5, "sft": 0.45}
LINE = FigureSpec("noise", "line", y="pass_rate", x="corruption.rate")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    made = by_rate(RATES)

    def run(folder: Path, cell: Mapping[str, Any]) -> None:
        lost = cell["arm"] == "sft" and cell["corruption.rate"] == 0.4 and cell["seed"]
        fail(folder) if lost else made(folder, cell)

    return write_study(tmp_path, grid(arm=list(RATES), corruption__rate=[0.05, 0.2, 0.4]), run)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_a_png_and_a_pdf(kind: str, study: Path, tmp_path: Path) -> None:
    x = "kl" if kind == "frontier" else "corruption.rate"
    files = plot(load(study), FigureSpec("f", kind, y="pass_rate", x=x), tmp_path / "figures" / "f").files
    assert [file.name for file in files] == ["f.png", "f.pdf"]
    height, width, *_ = matplotlib.image.imread(files[0]).shape
    assert width > 1000 and height > 600
    assert files[1].read_bytes().startswith(b"%PDF")


def test_the_same_records_give_the_same_file(study: Path, tmp_path: Path) -> None:
    frame = load(study)
    once, again = (plot(frame, LINE, tmp_path / name / "f") for name in ("a", "b"))
    assert [file.read_bytes() for file in once.files] == [file.read_bytes() for file in again.files]
    assert once.svg == again.svg


@pytest.mark.parametrize("kind", KINDS)
def test_an_axis_says_what_it_is(kind: str, study: Path, tmp_path: Path, figures: list[Figure]) -> None:
    x = "kl" if kind == "frontier" else "corruption.rate"
    plot(load(study), FigureSpec("f", kind, y="pass_rate", x=x, x_label="how far"), tmp_path / "f")
    plot(load(study), FigureSpec("f", kind, y="pass_rate", x=x), tmp_path / "f")
    plain = "KL, nats/answer" if kind == "frontier" else "corruption rate"
    assert list(dict.fromkeys(figure.axes[0].get_xlabel() for figure in figures)) == ["how far", plain]


def test_lines_hold_the_means_and_are_labelled_at_their_ends(
    study: Path, tmp_path: Path, figures: list[Figure]
) -> None:
    frame = load(study)
    plot(frame, LINE, tmp_path / "f")
    (axes,) = figures[0].axes
    assert [text.get_text() for text in axes.texts] == ["kto", "dpo", "sft", "base policy"]
    thick = [line for line in axes.lines if line.get_linewidth() > 1.5 and len(line.get_xdata()) > 1]
    means = frame[frame["arm"] == "kto"].groupby("corruption.rate")["pass_rate"].mean()
    np.testing.assert_allclose(thick[0].get_xdata(), means.index)
    np.testing.assert_allclose(thick[0].get_ydata(), means)
    # Lines differ by more than their colour.
    assert len({(line.get_linestyle(), line.get_marker()) for line in thick}) == 3
    note = figures[0].get_supxlabel()
    assert note.startswith(
        "Mean of 1 to 3 seeds; band: 95 % interval over prompts of one run, or over seeds and prompts"
    )
    assert "Not shown, of 27 runs: 2 failed" in note.replace("\n", " ")


def test_a_point_that_lacks_seeds_is_hollow(study: Path, tmp_path: Path, figures: list[Figure]) -> None:
    plot(load(study), LINE, tmp_path / "f")
    hollow = [line for line in figures[0].axes[0].lines if line.get_markerfacecolor() == "white"]
    assert [float(np.asarray(line.get_xdata())[0]) for line in hollow] == [0.4]
    assert "hollow: some of its seeds are lacking" in figures[0].get_supxlabel().replace("\n", " ")


def test_a_heat_map_has_its_numbers_and_its_gaps(tmp_path: Path, figures: list[Figure]) -> None:
    def run(folder: Path, cell: Mapping[str, Any]) -> None:
        state = (cell["arm"], cell["corruption.rate"])
        fail(folder) if state == ("dpo", 0.4) else by_rate(RATES)(folder, cell)

    frame = load(write_study(tmp_path, grid(arm=["kto", "dpo"], corruption__rate=[0, 0.4]), run))
    plot(frame, FigureSpec("f", "heatmap", y="pass_rate", x="corruption.rate"), tmp_path / "f")
    texts = [text.get_text() for text in figures[0].axes[0].texts]
    means = frame.groupby(["arm", "corruption.rate"])["pass_rate"].mean()
    kto, dpo = means["kto"], means["dpo"]
    assert texts == [f"{kto[0]:.2f}", f"{kto[0.4]:.2f}", f"{dpo[0]:.2f}", "failed"]


def test_a_frontier_has_a_point_a_run(study: Path, tmp_path: Path, figures: list[Figure]) -> None:
    frame = load(study)
    plot(frame, FigureSpec("f", "frontier", y="pass_rate", x="kl"), tmp_path / "f")
    points = np.concatenate([np.asarray(found.get_offsets()) for found in figures[0].axes[0].collections])
    done = frame[frame["status"] == "done"]
    np.testing.assert_allclose(np.sort(points, axis=0), np.sort(done[["kl", "pass_rate"]].to_numpy(float), axis=0))


def test_the_line_of_a_frontier_runs_along_the_best_of_what_is_left_of_it() -> None:
    xs, ys = [3.0, 1.0, 2.0, 2.0, 4.0], [0.5, 0.4, 0.3, 0.6, 0.7]
    assert frontier(xs, ys, higher_is_better=True) == [(1.0, 0.4), (2.0, 0.6), (4.0, 0.7)]
    assert frontier(xs, ys, higher_is_better=False) == [(1.0, 0.4), (2.0, 0.3)]


def test_only_the_cells_that_are_asked_for_are_drawn(study: Path, tmp_path: Path, figures: list[Figure]) -> None:
    spec = FigureSpec("f", "line", "pass_rate", "corruption.rate", where={"arm": ["kto", "dpo"]})
    plot(load(study), spec, tmp_path / "f")
    assert [text.get_text() for text in figures[0].axes[0].texts] == ["kto", "dpo", "base policy"]
    assert figures[0].get_supxlabel().endswith("seeds and prompts. Only runs with arm kto, dpo.")


def test_a_setting_that_lacks_a_run_has_no_part_in_the_line(tmp_path: Path, figures: list[Figure]) -> None:
    def run(folder: Path, cell: Mapping[str, Any]) -> None:
        lost = cell["corruption.rate"] == 0 and cell["seed"] == 2
        fail(folder) if lost else by_rate(RATES)(folder, cell)

    frame = load(write_study(tmp_path, grid(arm=["kto"], corruption__rate=[0, 0.2, 0.4]), run))
    plot(frame, FigureSpec("f", "frontier", y="pass_rate", x="kl"), tmp_path / "f")
    line, _ = figures[0].axes[0].lines
    # More noise is less KL here; the best of all, without noise, is not complete.
    means = frame[frame["corruption.rate"] > 0].groupby("corruption.rate")[["kl", "pass_rate"]].mean()
    assert means["pass_rate"][0.2] > means["pass_rate"][0.4] and means["kl"][0.2] > means["kl"][0.4]
    np.testing.assert_allclose(line.get_xdata(), [means["kl"][0.4], means["kl"][0.2], means["kl"][0.2]])
    np.testing.assert_allclose(np.asarray(line.get_ydata())[:2], [means["pass_rate"][0.4], means["pass_rate"][0.2]])


def test_one_seed_has_bands_of_its_run_by_name(tmp_path: Path, figures: list[Figure]) -> None:
    home = write_study(tmp_path, grid([0], arm=["kto"], corruption__rate=[0, 0.4]), by_rate(RATES))
    plot(load(home), LINE, tmp_path / "f")
    assert figures[0].get_supxlabel() == "One seed; band: 95 % interval over prompts of one run."


def test_values_that_are_no_numbers_stand_side_by_side(study: Path, tmp_path: Path, figures: list[Figure]) -> None:
    plot(load(study), FigureSpec("f", "line", y="pass_rate", x="arm", line="corruption.rate"), tmp_path / "f")
    assert [tick.get_text() for tick in figures[0].axes[0].get_xticklabels()] == list(RATES)


def test_seeds_of_one_line_a_column_stand_over_its_name(study: Path, tmp_path: Path, figures: list[Figure]) -> None:
    spec = FigureSpec("f", "seeds", "pass_rate", "arm", where={"corruption.rate": 0.2})
    plot(load(study), spec, tmp_path / "f")
    (axes,) = figures[0].axes
    drawn = [np.asarray(found.get_offsets()) for found in axes.collections if len(found.get_offsets())]
    assert [set(points[:, 0]) for points in drawn if len(points) == 3] == [{0.0}, {1.0}, {2.0}]
    legend = axes.get_legend()
    assert legend is not None and [text.get_text() for text in legend.texts] == ["base policy"]


def test_what_cannot_be_drawn_is_said(study: Path, tmp_path: Path) -> None:
    frame = load(study)
    for spec, message in (
        (FigureSpec("f", "line", y="pass_rat", x="corruption.rate"), "no finished run has the metric 'pass_rat'"),
        (FigureSpec("f", "line", y="pass_rate", x="loss.beta"), r"'loss\.beta' is no choice"),
        (FigureSpec("f", "line", y="pass_rate", x="arm", line="corruption.rate", log_x=True), "are no numbers"),
        (FigureSpec("f", "frontier", y="pass_rate", x="kl", line="loss"), "'loss' is no choice"),
        (FigureSpec("f", "line", y="pass_rate", x="arm", line="arm"), "also differ by corruption"),
    ):
        with pytest.raises(LabError, match=rf"^figure f: .*{message}"):
            plot(frame, spec, tmp_path / "f")
    with pytest.raises(LabError, match="no run of the study is done"):
        plot(frame.assign(status="missing"), LINE, tmp_path / "f")
    with pytest.raises(LabError, match="has no place on a log axis"):
        shifted = frame.assign(**{"corruption.rate": frame["corruption.rate"] - 0.05})
        plot(shifted, FigureSpec("f", "line", y="pass_rate", x="corruption.rate", log_x=True), tmp_path / "f")
    assert not (tmp_path / "f.png").exists()


def test_more_lines_than_can_be_told_apart_are_refused(tmp_path: Path) -> None:
    arms = [f"m{place}" for place in range(len(COLOURS) + 1)]
    frame = load(write_study(tmp_path, grid([0], arm=arms), by_rate(dict.fromkeys(arms, 0.5))))
    with pytest.raises(LabError, match="11 lines; more than 10 cannot be told apart"):
        plot(frame, FigureSpec("f", "frontier", y="pass_rate", x="kl"), tmp_path / "f")
    # Columns are told apart by where they stand.
    plot(frame, FigureSpec("f", "seeds", y="pass_rate", x="arm"), tmp_path / "f")


def test_a_method_looks_the_same_in_every_figure(study: Path, tmp_path: Path, figures: list[Figure]) -> None:
    frame = load(study)
    for only in (["kto", "dpo", "sft"], ["sft"]):
        plot(frame, FigureSpec("f", "line", "pass_rate", "corruption.rate", where={"arm": only}), tmp_path / "f")
    plot(frame, FigureSpec("f", "frontier", "pass_rate", "kl", where={"arm": ["sft"]}), tmp_path / "f")
    three, one, frontier = (figure.axes[0] for figure in dict.fromkeys(figures))
    drawn = [next(text for text in axes.texts if text.get_text() == "sft").get_color() for axes in (three, one)]
    assert {*drawn, to_hex(frontier.collections[0].get_facecolor()[0])} == {COLOURS[2]}


@pytest.mark.parametrize("kind", ["line", "frontier", "seeds"])
def test_an_axis_ends_where_its_metric_does(kind: str, tmp_path: Path, figures: list[Figure]) -> None:
    def run(folder: Path, cell: Mapping[str, Any]) -> None:
        passed = 60 if cell["seed"] else 52
        write_run(folder, cell["seed"], [1.0] * passed + [0.0] * (60 - passed), kl=cell["corruption.rate"])

    frame = load(write_study(tmp_path, grid(arm=["kto"], corruption__rate=[0.1, 0.4]), run))
    x = "kl" if kind == "frontier" else "corruption.rate"
    plot(frame, FigureSpec("f", kind, y="pass_rate", x=x), tmp_path / "f")
    (axes,) = figures[0].axes
    assert axes.get_ylim()[1] == 1.0
    bands = [np.asarray(band.get_paths()[0].vertices)[:, 1].max() for band in axes.collections if kind == "line"]
    assert all(top <= 1.0 for top in bands)


def test_the_base_policy_is_a_line(study: Path, tmp_path: Path, figures: list[Figure]) -> None:
    frame = load(study)
    for kind, x in (("line", "corruption.rate"), ("frontier", "kl"), ("seeds", "corruption.rate")):
        plot(frame, FigureSpec("f", kind, y="pass_rate", x=x), tmp_path / "f")
    for figure in dict.fromkeys(figures):
        (base,) = [line for line in figure.axes[0].lines if line.get_label() == "base policy"]
        assert set(np.asarray(base.get_ydata())) == {frame["pass_rate_base"].mean()}
    count = len(figures)
    plot(frame, FigureSpec("f", "line", y="seconds", x="corruption.rate"), tmp_path / "f")
    assert "base policy" not in [line.get_label() for line in figures[count].axes[0].lines]


@pytest.mark.parametrize("kind", KINDS)
def test_a_setting_on_the_edge_of_what_was_tried_has_a_dagger(kind: str, tmp_path: Path, figures: list[Figure]) -> None:
    # The less noise, the better: 0.1 is the smallest that was tried.
    home = write_study(tmp_path, grid(arm=["kto"], corruption__rate=[0.1, 0.3, 0.5]), by_rate(RATES, slope=1.5))
    choose = Choose(["corruption.rate"], "pass_rate")
    x = "kl" if kind == "frontier" else "arm"
    plot(load(home), FigureSpec("f", kind, "pass_rate", x, choose=choose), tmp_path / "f", home)
    texts = [text.get_text() for text in figures[0].axes[0].texts]
    assert any("†" in text for text in texts)
    assert "† on the edge of the settings that were tried" in figures[0].get_supxlabel().replace("\n", " ")

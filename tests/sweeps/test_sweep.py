"""`kto-lab sweep`: every cell once, whatever is killed, fails, or runs beside it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kto_lab.quoting import quoted
from kto_lab.runs.job import LOG
from kto_lab.runs.record import RECORD, read_record
from kto_lab.runs.status import FAILURE, status
from tests.small_runs import metrics
from tests.sweeps.small_study import Sweep, same


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    sweep = Sweep(tmp_path_factory.mktemp("undisturbed"))
    sweep.run()
    return sweep


def test_every_cell_has_a_record_and_its_words_are_in_its_log(undisturbed: Sweep) -> None:
    cells = undisturbed.cells()
    assert [(cell["choices"]["arm"], cell["choices"]["corruption.rate"]) for cell in cells] == [
        ("kto", 0),
        ("kto", 0.2),
        ("sft", 0),
        ("sft", 0.2),
    ]
    for cell, folder in zip(cells, undisturbed.folders(), strict=True):
        assert read_record(folder)["run_id"] == cell["run_id"] == folder.name
        said = (folder / LOG).read_text()
        assert "==> Training" in said and not {"\r", "\x1b"} & set(said) and "    cells " not in said
        assert len(metrics(folder)) == 4


def test_the_report_of_a_swept_study(undisturbed: Sweep) -> None:
    words = ["--config-dir", str(undisturbed.folder / "own"), "study=small", f"runs_dir={quoted(undisturbed.runs)}"]
    done = subprocess.run(
        [sys.executable, "-m", "kto_lab.cli", "report", *words], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    page = (undisturbed.runs / "studies" / "small" / "report.html").read_text()
    assert "Does a sweep do what it says?" in page and all(cell["run_id"] in page for cell in undisturbed.cells())


def test_a_finished_study_runs_nothing_again(undisturbed: Sweep) -> None:
    before = {folder: (folder / RECORD).stat().st_mtime_ns for folder in undisturbed.folders()}
    said = undisturbed.run()
    assert "4 cells: 4 done" in said and "4 of 4 cells are done" in said
    assert before == {folder: (folder / RECORD).stat().st_mtime_ns for folder in undisturbed.folders()}


def test_a_dry_run_says_what_would_be_run_and_writes_nothing(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    said = sweep.run("--dry-run", "seed=0,1")
    assert "8 cells: 8 missing" in said and said.count("arm=kto") == 4
    assert not sweep.runs.exists()


def test_a_contrast_by_an_own_metric_without_a_better_side_is_refused_before_a_run(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    sweep.environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), *sys.path])
    (tmp_path / "metrics_of_mine.py").write_text(
        "from kto_lab.evaluation.measuring import Metric\nSHOUTING = Metric('shouting', measure=lambda found: {})\n"
    )
    with (sweep.folder / "own" / "study" / "small.yaml").open("a") as file:
        file.write("contrasts: [{name: louder, of: {arm: kto}, against: {arm: sft}, metric: shouting, expect: less}]\n")
    said = sweep.run("evaluation.metrics=[metrics_of_mine.SHOUTING]", "evaluation.prompts=2", "--dry-run", expect=1)
    assert "contrast louder: of shouting neither more nor less is better" in " ".join(said.split())
    assert not sweep.runs.exists()


def test_a_failing_cell_is_recorded_and_stops_no_other(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    said = sweep.run("corruption.rate=0,2", expect=1)
    assert "2 of 4 cells are not done" in said and said.count("2 failed: corruption.rate") == 1
    assert f"such as arm=kto corruption.rate=2 seed=0: {sweep.folders()[1]}" in said
    states = [status(folder) for folder in sweep.folders()]
    assert states.count("done") == 2 and states.count("failed") == 2
    failure = json.loads((sweep.folders()[1] / FAILURE).read_text())
    assert "corruption.rate" in failure["error"] and "Traceback" in failure["traceback"]
    # A failed cell is not tried again unless asked.
    again = sweep.run("corruption.rate=0,2", expect=1)
    assert "2 done, 2 failed" in again
    retried = sweep.run("corruption.rate=0,2", "--retry-failed", expect=1)
    assert "2 done, 2 failed" in retried


@pytest.mark.slow
def test_two_sweeps_at_once_run_no_cell_twice(tmp_path: Path, undisturbed: Sweep) -> None:
    sweep = Sweep(tmp_path)
    both = [sweep.start(), sweep.start()]
    for process in both:
        out, error = process.communicate(timeout=300)
        # Whoever comes to its end first waits for what the other still runs.
        assert process.returncode == 0 and "4 of 4 cells are done" in out, out + error
    for here, there in zip(sweep.folders(), undisturbed.folders(), strict=True):
        assert (here / LOG).read_text().count("==> Training") == 1
        same(here, there)


@pytest.mark.slow
def test_a_disk_that_fills_up_fails_cells_one_by_one_and_leaves_no_part(tmp_path: Path, undisturbed: Sweep) -> None:
    sweep = Sweep(tmp_path)
    # No file may pass 1 MB, which a checkpoint does and a record does not.
    said = sweep.run(expect=1, limit=1_000_000)
    assert "4 of 4 cells are not done" in said
    for folder in sweep.folders():
        assert status(folder) == "failed"
        assert "Could not write" in json.loads((folder / FAILURE).read_text())["error"]
        assert not list(folder.rglob("*.safetensors"))
    sweep.run("--retry-failed")
    for here, there in zip(sweep.folders(), undisturbed.folders(), strict=True):
        same(here, there)


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    sweep.runs.write_text("a file in its place")
    assert "Could not write" in sweep.run(expect=1)


@pytest.mark.slow
def test_a_damaged_record_is_seen_and_made_again_when_asked(undisturbed: Sweep, tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    words = ["corruption.rate=0", "seed=0"]
    sweep.run(*words)
    broken = sweep.folders()[0]
    (broken / RECORD).write_text("{")
    assert "1 unreadable" in sweep.run(*words, expect=1)
    sweep.run(*words, "--retry-failed")
    same(broken, undisturbed.folders()[0])


@pytest.mark.slow
def test_a_cell_is_run_again_when_its_loss_changes_and_is_not_when_that_is_accepted(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    losses, own = tmp_path / "my_losses.py", sweep.folder / "own"
    losses.write_text(
        "from kto_lab.losses import Feed, Needs, declares\n\n\n@declares(Needs(Feed.DESIRABLE))\ndef mine(batch):\n"
        "    return -batch.policy\n"
    )
    (own / "loss").mkdir()
    (own / "loss" / "mine.yaml").write_text("defaults: [sft, _self_]\nfunction: my_losses.mine\n")
    (own / "study" / "small.yaml").write_text(
        "name: small\nquestion: Is it run again?\narms: {mine: [loss=mine]}\ngrid: {}\nseeds: [0]\n"
    )
    sweep.environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    sweep.run()
    (first,) = sweep.folders()
    losses.write_text(losses.read_text().replace("return -", "return "))
    why = sweep.run("--why")
    assert "1 cells: 1 missing" in why and "code: my_losses (nearest:" in why
    accepted = sweep.run("--accept-code", "my_losses")
    assert "1 cells: 1 done" in accepted and "1 cells are finished runs of other code: my_losses" in accepted
    assert sweep.folders() == [first] and sweep.cells()[0]["accepted_code"] == ["my_losses"]
    sweep.run()
    assert sweep.folders() != [first] and "accepted_code" not in sweep.cells()[0]
    assert metrics(first)[-1]["loss"] != metrics(sweep.folders()[0])[-1]["loss"]

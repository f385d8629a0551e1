"""The offline run is read back with W&B's own reader, and its files byte by byte."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb

from kto_lab.studies.wandb_log import finish, flat_estimates
from kto_lab.training.curves import plot_curves
from kto_lab.training.loggers import Wandb

SECRETS = {"WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567", "SITE_TOKEN": "very-secret-token-of-this-site"}
ESTIMATE = {"value": 0.6, "low": 0.5, "high": 0.7, "n": 120}
RECORD = {
    "metrics": {
        "answers": {"pass_rate": {"base": {**ESTIMATE, "value": 0.4, "low": None, "high": None}, "trained": ESTIMATE}},
        "kl": {"value": None, "low": None, "high": None, "n": 0},
    },
    "environment": {"python": "3.11"},
    "data": {"fingerprint": "f00"},
    "model": {"name": "tiny"},
}
ANSWERS = [{"prompt": "Say hi.", "base": "No.", "trained": "Hi!"}, {"prompt": "Say no.", "base": "No."}]


def log_run(folder: Path, steps: range, *, close: bool = True) -> None:
    settings = Wandb(project="lab", group="noise", tags=["kto", "tiny"], name="cell 3", job_type="train", offline=True)
    loggers = settings.make(folder=folder, run_id="run42", config={"loss": {"beta": 0.1}})
    for step in steps:
        loggers[0].log_metrics({"train/loss": 0.5 / step}, step=step)
    if close:
        finish(loggers, RECORD, tables={"sample answers": ANSWERS}, curves=folder / "curves.png")


def read_back(run: Path) -> list[dict[str, Any]]:
    command = shutil.which("wandb", path=Path(sys.executable).parent) or "wandb"
    done = subprocess.run([command, "leet", "inspect", "--json", str(run)], capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def merged(records: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """All updates of one kind of record (config, summary), the last one winning."""
    result: dict[str, Any] = {}
    for record in records:
        if record["type"] == kind:
            result |= record[kind].get("update", {})
    return result


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run folder with two offline runs: one that was left unfinished, and its continuation."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SECRETS.items():
            patch.setenv(name, value)
        # W&B stages tables outside the run folder.
        patch.setenv("WANDB_DATA_DIR", str(folder / "staging"))
        (folder / "metrics.csv").write_text("step,loss\n1,0.5\n2,0.25\n")
        plot_curves(folder / "metrics.csv", folder / "curves.png")
        log_run(folder, range(1, 3), close=False)
        log_run(folder, range(2, 4))
        yield folder


@pytest.fixture(scope="module")
def records(run_folder: Path) -> list[list[dict[str, Any]]]:
    """The records of each of the two runs, in order of time."""
    runs = sorted((run_folder / "wandb").glob("offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime)
    return [read_back(path) for path in runs]


def test_run_is_named_grouped_and_configured(records: list[list[dict[str, Any]]]) -> None:
    run = next(record["run"] for record in records[1] if record["type"] == "run")
    assert (run["project"], run["run_group"], run["display_name"]) == ("lab", "noise", "cell 3")
    assert (run["tags"], run["job_type"]) == (["kto", "tiny"], "train")
    assert run["config"]["update"]["loss"] == {"beta": 0.1}
    assert merged(records[1], "config")["environment"] == RECORD["environment"]


def test_a_resumed_run_goes_on_with_the_same_id(records: list[list[dict[str, Any]]]) -> None:
    runs = [next(record["run"] for record in part if record["type"] == "run") for part in records]
    assert [(run["run_id"], run["resume"]) for run in runs] == [("run42", True)] * 2
    # The first was left unfinished, and closed as failed before the second began.
    assert [part[-1]["exit"].get("exit_code", 0) for part in records] == [1, 0]


def test_steps_are_in_the_history(records: list[list[dict[str, Any]]]) -> None:
    history = [record["history"]["item"] for record in records[1] if record["type"] == "history"]
    steps = [(item["trainer/global_step"], item["train/loss"]) for item in history if "train/loss" in item]
    assert steps == [(2, 0.25), (3, pytest.approx(0.5 / 3))]


def test_summary_has_metrics_with_intervals_and_nothing_that_is_none(records: list[list[dict[str, Any]]]) -> None:
    summary = merged(records[1], "summary")
    found = {name: value for name, value in summary.items() if name.startswith(("answers/", "kl"))}
    assert found == {
        "answers/pass_rate/base": 0.4,
        "answers/pass_rate/trained": 0.6,
        "answers/pass_rate/trained_low": 0.5,
        "answers/pass_rate/trained_high": 0.7,
    }


def test_tables_and_curves_are_there(run_folder: Path, records: list[list[dict[str, Any]]]) -> None:
    tables = {path.name.split("_")[0]: json.loads(path.read_text()) for path in run_folder.rglob("*.table.json")}
    answers = tables["sample answers"]
    assert answers["columns"] == ["prompt", "base", "trained"]
    assert answers["data"] == [["Say hi.", "No.", "Hi!"], ["Say no.", "No.", None]]
    assert ["answers/pass_rate/trained", 0.6, 0.5, 0.7, 120] in tables["metrics"]["data"]
    (image,) = run_folder.glob("wandb/offline-run-*/files/media/images/curves*.png")
    assert image.read_bytes() == (run_folder / "curves.png").read_bytes()


def test_no_key_variable_or_host_lands_in_it(run_folder: Path, records: list[list[dict[str, Any]]]) -> None:
    content = b"".join(path.read_bytes() for path in run_folder.rglob("*") if path.is_file())
    assert b"run42" in content
    for secret in SECRETS.values():
        assert secret.encode() not in content
    run = next(record["run"] for record in records[1] if record["type"] == "run")
    assert not run.get("host")
    assert not list(run_folder.rglob("wandb-metadata.json"))


def test_finishing_leaves_no_run_open_and_ignores_other_loggers(run_folder: Path) -> None:
    assert wandb.run is None
    finish([], RECORD, tables={}, curves=None)


def test_flat_estimates_join_their_path() -> None:
    names = [name for name, _ in flat_estimates({"a": {"b": ESTIMATE, "note": "text"}, "c": ESTIMATE})]
    assert names == ["a/b", "c"]

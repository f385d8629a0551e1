"""The offline run is read back with W&B's own reader, and its files byte by byte."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from lightning.pytorch.loggers import WandbLogger

from kto_lab.runs.curves import CURVES, plot_curves
from kto_lab.runs.record import RECORD, read_record
from kto_lab.runs.wandb_log import finish, flat_estimates
from kto_lab.sweeps.cell import run_cell
from kto_lab.training.loggers import Wandb
from tests.runs.wandb_files import Records, about, history, merged, offline_runs, tables
from tests.small_runs import configuration

SECRETS = {
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "HF_TOKEN": "hf_not-a-token-but-as-secret",
    "AWS_SECRET_ACCESS_KEY": "aws/not/a/key/but/as/secret",
    "SLURM_JOB_ACCOUNT": "account-of-the-institute",
    "SITE_TOKEN": "very-secret-token-of-this-site",
}
ESTIMATE = {"value": 0.6, "low": 0.5, "high": 0.7, "n": 120}
RECORD_OF_RUN = {
    "metrics": {
        "answers": {"pass_rate": {"base": {**ESTIMATE, "value": 0.4, "low": None, "high": None}, "trained": ESTIMATE}},
        "kl": {"value": None, "low": None, "high": None, "n": 0},
    },
    "declared": {},
    "environment": {"python": "3.11"},
    "data": {"fingerprint": "f00"},
    "model": {"name": "tiny"},
}
ANSWERS = [{"prompt": "Say hi.", "base": "No.", "trained": "Hi!"}, {"prompt": "Say no.", "base": "No."}]


def log_run(folder: Path, steps: range, *, close: bool = True) -> None:
    settings = Wandb(
        project="lab",
        entity=None,
        group="noise",
        tags=["kto", "tiny"],
        name="cell 3",
        job_type="train",
        artifacts="none",
        offline=True,
    )
    loggers = settings.make(folder=folder, run_id="run42", config={"loss": {"beta": 0.1}})
    for step in steps:
        loggers[0].log_metrics({"train/loss": 0.5 / step}, step=step)
    if close:
        finish(loggers, RECORD_OF_RUN, tables={"sample answers": ANSWERS}, curves=folder / "curves.png")


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
def records(run_folder: Path) -> list[Records]:
    return offline_runs(run_folder)


def test_run_is_named_grouped_and_configured(records: list[Records]) -> None:
    run = about(records[1])
    assert (run["project"], run["run_group"], run["display_name"]) == ("lab", "noise", "cell 3")
    assert (run["tags"], run["job_type"]) == (["kto", "tiny"], "train")
    assert run["config"]["update"]["loss"] == {"beta": 0.1}
    assert merged(records[1], "config")["environment"] == RECORD_OF_RUN["environment"]


def test_a_resumed_run_goes_on_with_the_same_id(records: list[Records]) -> None:
    assert [(about(part)["run_id"], about(part)["resume"]) for part in records] == [("run42", True)] * 2
    # The first was left unfinished, and closed as failed before the second began.
    assert [part[-1]["exit"].get("exit_code", 0) for part in records] == [1, 0]


def test_steps_are_in_the_history(records: list[Records]) -> None:
    steps = [(row["trainer/global_step"], row["train/loss"]) for row in history(records[1]) if "train/loss" in row]
    assert steps == [(2, 0.25), (3, pytest.approx(0.5 / 3))]


def test_summary_has_metrics_with_intervals_and_nothing_that_is_none(records: list[Records]) -> None:
    summary = merged(records[1], "summary")
    found = {name: value for name, value in summary.items() if name.startswith(("pass_rate", "kl"))}
    assert found == {"pass_rate_base": 0.4, "pass_rate": 0.6, "pass_rate_low": 0.5, "pass_rate_high": 0.7}


def test_tables_and_curves_are_there(run_folder: Path, records: list[Records]) -> None:
    found = tables(run_folder)
    answers = found["sample answers"]
    assert answers["columns"] == ["prompt", "base", "trained"]
    assert answers["data"] == [["Say hi.", "No.", "Hi!"], ["Say no.", "No.", None]]
    assert ["pass_rate", "pass rate", "up", 0.6, 0.5, 0.7, 120] in found["metrics"]["data"]
    (image,) = run_folder.glob("wandb/offline-run-*/files/media/images/curves*.png")
    assert image.read_bytes() == (run_folder / "curves.png").read_bytes()


def test_the_host_does_not_land_in_it(run_folder: Path, records: list[Records]) -> None:
    assert not about(records[1]).get("host")
    assert not list(run_folder.rglob("wandb-metadata.json"))


def test_finishing_leaves_no_run_open_and_ignores_other_loggers(run_folder: Path) -> None:
    assert wandb.run is None
    finish([], RECORD_OF_RUN, tables={}, curves=None)


def test_estimates_are_called_as_in_a_report() -> None:
    both = {"base": ESTIMATE, "trained": ESTIMATE, "difference": ESTIMATE, "detectable": 0.1}
    tasks = {policy: {"arc": {"acc": ESTIMATE}} for policy in ("base", "trained")}
    record = {"answers": {"pass_rate": both}, "groups": {"title": {"pass_rate": both}}, "kl": ESTIMATE}
    names = [name for name, _ in flat_estimates({**record, "lm_eval": tasks})]
    assert names == [
        *("pass_rate_base", "pass_rate", "pass_rate_difference"),
        *("groups.title.pass_rate_base", "groups.title.pass_rate", "groups.title.pass_rate_difference"),
        *("kl", "arc.acc_base", "arc.acc"),
    ]
    alone = flat_estimates({"answers": {"pass_rate": ESTIMATE}, "lm_eval": {"arc": {"acc": ESTIMATE}}})
    assert [name for name, _ in alone] == ["pass_rate", "arc.acc"]


class Killed(BaseException):
    """In the place of a signal."""


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a real cell with secrets all around, which was stopped after its second step and went on."""
    folder = tmp_path_factory.mktemp("cell")
    cfg = configuration(
        folder,
        "logger=wandb",
        "logger.artifacts=all",
        "evaluation=quick",
        "evaluation.prompts=4",
        "evaluation.max_new_tokens=4",
        "optimization.max_steps=4",
        "optimization.checkpoint_every=1",
    )
    log_metrics = WandbLogger.log_metrics

    def stop(self: WandbLogger, metrics: Any, step: int | None = None) -> None:
        if step == 3:
            raise Killed
        log_metrics(self, metrics, step)

    with pytest.MonkeyPatch.context() as patch:
        for name, value in SECRETS.items():
            patch.setenv(name, value)
        patch.setenv("WANDB_DATA_DIR", str(folder / "staging"))
        with patch.context() as stopping:
            stopping.setattr(WandbLogger, "log_metrics", stop)
            with pytest.raises(Killed):
                run_cell(cfg)
        assert run_cell(cfg) == "done"
        yield folder / "run"


@pytest.fixture(scope="module")
def parts(cell: Path) -> list[Records]:
    return offline_runs(cell)


def test_no_secret_and_no_variable_lands_in_a_run_folder(cell: Path, parts: list[Records]) -> None:
    files = {path: path.read_bytes() for path in cell.rglob("*") if path.is_file()}
    assert {RECORD, "config.yaml", "log.txt"} <= {path.name for path in files}
    assert any(path.suffix == ".wandb" for path in files) and any(path.name == "debug.log" for path in files)
    # The log of W&B is cut into blocks, so it is read by its own reader, too.
    contents = [*files.values(), json.dumps(parts).encode()]
    for word in [*SECRETS, *SECRETS.values()]:
        assert not any(word.encode() in content for content in contents), word


def test_policy_and_record_are_artifacts_of_a_run_that_asks_for_them(
    cell: Path, parts: list[Records], records: list[Records]
) -> None:
    run_id = read_record(cell)["run_id"]
    kept = {one["artifact"]["name"]: one["artifact"] for one in map(dict, parts[1]) if "artifact" in one}
    assert {name: one["type"] for name, one in kept.items() if run_id in name and "table" not in one["type"]} == {
        f"policy-{run_id}": "model",
        f"record-{run_id}": "report",
    }
    held = {entry["path"] for entry in kept[f"policy-{run_id}"]["manifest"]["contents"]}
    assert held == {path.name for path in (cell / "policy").iterdir()}
    assert not [one for one in records[1] if one.get("artifact", {}).get("type") in ("model", "report")]


def test_a_real_run_that_was_stopped_goes_on_as_the_same_run(cell: Path, parts: list[Records]) -> None:
    first, second = parts
    record = read_record(cell)
    assert about(first)["run_id"] == about(second)["run_id"] == record["run_id"]
    assert [row["trainer/global_step"] for row in history(first) if "train/loss" in row] == [1, 2]
    assert [row["trainer/global_step"] for row in history(second) if "train/loss" in row] == [3, 4]
    assert first[-1]["exit"].get("exit_code", 0) == 1 and second[-1]["exit"].get("exit_code", 0) == 0


def test_a_real_run_has_configuration_intervals_answers_and_curves(cell: Path, parts: list[Records]) -> None:
    records, record = parts[1], read_record(cell)
    config, summary = merged(records, "config") | about(records)["config"]["update"], merged(records, "summary")
    assert config["loss"]["beta"] == 0.1 and config["optimization"]["max_steps"] == 4
    margin = record["metrics"]["rewards"]["reward_margin"]
    for end, suffix in {"value": "", "low": "_low", "high": "_high"}.items():
        assert summary[f"reward_margin{suffix}"] == pytest.approx(margin[end])
    assert len(tables(cell)["sample answers"]["data"]) == 4
    (image,) = cell.glob("wandb/offline-run-*/files/media/images/curves*.png")
    assert image.read_bytes() == (cell / CURVES).read_bytes()

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from kto_lab.errors import LabError
from kto_lab.training.loggers import MetricsFileOnly, Wandb
from tests.small_runs import run

CONF = Path(__file__).parents[2] / "conf" / "logger"


def option(name: str) -> DictConfig:
    config = OmegaConf.load(CONF / f"{name}.yaml")
    assert isinstance(config, DictConfig)
    return config


def test_csv_is_the_metrics_file_alone(tmp_path: Path) -> None:
    logger = instantiate(option("csv"))
    assert isinstance(logger, MetricsFileOnly)
    assert logger.make(folder=tmp_path, run_id="a", config={}) == []


def test_wandb_is_offline_unless_told_otherwise(tmp_path: Path) -> None:
    logger = instantiate(option("wandb"))
    assert isinstance(logger, Wandb)
    assert logger.offline is None and "WANDB_MODE" not in os.environ
    assert started(logger, tmp_path)["mode"] == "offline"


def started(logger: Wandb, folder: Path) -> dict[str, Any]:
    """What a run that is started is, and where its files are."""
    (made,) = logger.make(folder=folder, run_id="a", config={})
    run: Any = made.experiment
    about = {key: getattr(run, key) for key in ("project", "entity", "group", "tags", "name", "job_type", "notes")}
    about |= {"mode": run.settings.mode, "folder": Path(run.dir)}
    run.finish()
    return about


VARIABLES = {
    "WANDB_PROJECT": "theirs",
    "WANDB_ENTITY": "team",
    "WANDB_RUN_GROUP": "group",
    "WANDB_TAGS": "one,two",
    "WANDB_NAME": "named",
    "WANDB_JOB_TYPE": "trial",
    "WANDB_NOTES": "why",
    "WANDB_MODE": "offline",
}


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    """W&B's own variables, as a person has set them; it reads them once per process, unless it is told to forget."""
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "elsewhere"))
    (tmp_path / "elsewhere").mkdir()
    wandb.teardown()
    yield monkeypatch
    wandb.teardown()


@pytest.mark.usefixtures("variables")
def test_wandb_s_own_variables_are_followed_unless_a_key_says_otherwise(tmp_path: Path) -> None:
    found = started(instantiate(option("wandb")), tmp_path)
    assert found.pop("folder").is_relative_to(tmp_path / "elsewhere")
    assert found == {
        "project": "theirs",
        "entity": "team",
        "group": "group",
        "tags": ("one", "two"),
        "name": "named",
        "job_type": "trial",
        "notes": "why",
        "mode": "offline",
    }
    keys = {"project": "mine", "entity": "me", "group": "g", "tags": ["t"], "name": "n", "job_type": "j"}
    found = started(instantiate(option("wandb"), **keys), tmp_path)
    assert {key: found[key] for key in keys} == keys | {"tags": ("t",)}


def test_wandb_can_be_switched_off(variables: pytest.MonkeyPatch, tmp_path: Path) -> None:
    variables.setenv("WANDB_MODE", "disabled")
    assert started(instantiate(option("wandb")), tmp_path)["mode"] == "disabled"
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_variable_that_wandb_does_not_know_is_said(variables: pytest.MonkeyPatch, tmp_path: Path) -> None:
    variables.setenv("WANDB_MODE", "sometimes")
    with pytest.raises(LabError, match="Weights & Biases does not start"):
        instantiate(option("wandb")).make(folder=tmp_path, run_id="a", config={})


@pytest.mark.parametrize("variable", ["HOME", "WANDB_DIR", "WANDB_DATA_DIR"])
def test_a_folder_that_wandb_cannot_write_is_said_before_anything_is_loaded(
    variable: str, variables: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    variables.delenv("WANDB_DATA_DIR", raising=False)
    variables.delenv("XDG_DATA_HOME", raising=False)
    variables.setenv("HOME", str(tmp_path))
    variables.setenv(variable, str(tmp_path / "file"))
    with pytest.raises(LabError, match=rf"cannot write into {tmp_path}/file.*Set WANDB_(DATA_)?DIR"):
        run(tmp_path, "logger=wandb", "feedback.path=none.jsonl")


def test_an_unknown_key_is_an_error() -> None:
    with pytest.raises(InstantiationException, match="colour"):
        instantiate(option("wandb"), colour="red")


@pytest.mark.parametrize("tag", ["", "x" * 65])
def test_a_tag_that_wandb_would_refuse_is_refused_at_once(tag: str) -> None:
    with pytest.raises(InstantiationException) as error:
        instantiate(option("wandb"), tags=["kto", tag])
    assert isinstance(error.value.__cause__, LabError) and "logger.tags" in str(error.value.__cause__)


def test_wandb_that_does_not_start_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**wanted: object) -> None:
        raise wandb.errors.UsageError("api_key not configured (no-tty)")

    monkeypatch.setattr(wandb, "init", refuse)
    logger = instantiate(option("wandb"), offline=False)
    with pytest.raises(LabError, match=r"api_key not configured.*wandb login.*logger\.offline=true"):
        logger.make(folder=tmp_path, run_id="a", config={})

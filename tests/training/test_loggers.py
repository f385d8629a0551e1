from pathlib import Path

import pytest
import wandb
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from kto_lab.errors import LabError
from kto_lab.training.loggers import MetricsFileOnly, Wandb

CONF = Path(__file__).parents[2] / "conf" / "logger"


def option(name: str) -> DictConfig:
    config = OmegaConf.load(CONF / f"{name}.yaml")
    assert isinstance(config, DictConfig)
    return config


def test_csv_is_the_metrics_file_alone(tmp_path: Path) -> None:
    logger = instantiate(option("csv"))
    assert isinstance(logger, MetricsFileOnly)
    assert logger.make(folder=tmp_path, run_id="a", config={}) == []


def test_wandb_is_offline_unless_told_otherwise() -> None:
    logger = instantiate(option("wandb"))
    assert isinstance(logger, Wandb)
    assert logger.offline


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

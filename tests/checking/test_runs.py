"""The small runs of the check."""

from pathlib import Path

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from kto_lab import cli
from kto_lab.checking import runs


def test_a_run_is_composed_within_a_command_that_goes_on(tmp_path: Path) -> None:
    with initialize_config_dir(str(cli.config_dir()), version_base="1.3"):
        command = GlobalHydra.instance().hydra
        cfg = runs.configuration(runs.words(tmp_path, "one", "loss=sft"))
        assert cfg.run_dir == str(tmp_path / "one") and cfg.optimization.max_steps == runs.STEPS
        assert GlobalHydra.instance().hydra is command

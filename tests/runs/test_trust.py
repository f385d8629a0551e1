"""A run folder's configuration is data: what it names is called only where the package or the user has named it."""

from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from kto_lab import cli
from kto_lab.errors import LabError
from kto_lab.runs.evaluate import evaluate
from kto_lab.runs.trust import named_in, refuse_foreign_code
from tests.damage import without_checksums
from tests.small_runs import composed, run

# Each leads, by another way, to a call of the folder's choice.
HOSTILE: dict[str, dict[str, Any]] = {
    "any function": {"corruption": {"_target_": "subprocess.run", "_args_": [["touch", "{ran}"]]}},
    "a pickle": {"corruption": {"_target_": "pickle.loads", "_args_": ["{ran}"]}},
    "through a module that the package imports": {
        "corruption": {"_target_": "kto_lab.files.subprocess.run", "_args_": [["touch", "{ran}"]]}
    },
    "through one that torch.optim imports": {
        "optimizer": {"_target_": "torch.optim.lr_scheduler.warnings.sys.exit", "_partial_": True}
    },
    "a function of the package that is no option": {
        "corruption": {"_target_": "kto_lab.files.write_text", "target": "{ran}", "text": ""}
    },
    "in a list, deep down": {
        "lengths": {"_target_": "kto_lab.models.tokens.Lengths", "x": [{"y": [{"_target_": "os.system"}]}]}
    },
    "a loss": {"loss": {"_target_": "kto_lab.losses.build", "function": "os.system"}},
    "metrics of an evaluation elsewhere": {
        "lengths": {"_target_": "kto_lab.evaluation.settings.Evaluation", "metrics": ["antigravity.x"]}
    },
    "a target that is no text": {"lengths": {"_target_": ["os", "system"]}},
    "a reference to the environment": {"feedback": {"path": "${oc.env:HOME}"}},
    "a target that refers to another value": {"seed": "os.system", "lengths": {"_target_": "${seed}"}},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose configuration is spoilt again and again."""
    return without_checksums(run(tmp_path_factory.mktemp("finished"), "optimization.max_steps=1"))


@pytest.mark.parametrize("way", HOSTILE)
def test_nothing_that_a_folder_alone_names_is_called(way: str, finished: Path, tmp_path: Path) -> None:
    kept, ran = finished / "config.yaml", tmp_path / "ran"
    before = kept.read_text()
    spoilt = OmegaConf.to_container(OmegaConf.create(before))
    assert isinstance(spoilt, dict)
    kept.write_text(OmegaConf.to_yaml(spoilt | HOSTILE[way]).replace("{ran}", str(ran)))
    try:
        with pytest.raises(LabError, match=r"A run folder is data|writes its values resolved") as refused:
            evaluate(composed([f"run={finished}", "trainer=cpu", "evaluation=none"], name="evaluate"))
    finally:
        kept.write_text(before)
    assert str(kept) in str(refused.value)
    assert not ran.exists()


def test_a_file_that_is_no_configuration_is_said(finished: Path) -> None:
    kept = finished / "config.yaml"
    before = kept.read_text()
    try:
        for text in ("- a\n- b\n", "{", "seed: 1\n", "seed: !!python/object/apply:os.getcwd []\n"):
            kept.write_text(text)
            with pytest.raises(LabError, match=r"config\.yaml (cannot be read|is no|lacks)"):
                evaluate(composed([f"run={finished}", "trainer=cpu", "evaluation=none"], name="evaluate"))
    finally:
        kept.write_text(before)


def checked(node: dict[str, Any], *trusted: str) -> None:
    cfg = OmegaConf.create({"node": node})
    assert isinstance(cfg, DictConfig)
    refuse_foreign_code(cfg, Path("config.yaml"), trusted)


def test_options_of_the_package_and_optimisers_of_torch_are_known() -> None:
    for name in ("torch.optim.NAdam", "torch.optim.lr_scheduler.MultiStepLR", "torchao.optim.AdamW8bit"):
        checked({"_target_": name})
    for name in named_in(Path(__file__).parents[2] / "conf", without="evaluation"):
        checked({"_target_": name})


def test_a_module_of_the_users_is_called_once_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own_losses.py").write_text("import os\nfrom kto_lab.losses import kto as mine\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    node = {"function": "my_own_losses.mine"}
    with pytest.raises(LabError, match=r"say trust=\[my_own_losses\]"):
        checked(node)
    checked(node, "my_own_losses")
    # What the module imports is not what the user has named.
    with pytest.raises(LabError, match="A run folder is data"):
        checked({"_target_": "my_own_losses.os.system"}, "my_own_losses")


def test_a_run_with_ones_own_loss_is_judged_again_by_its_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_other_losses.py").write_text("from kto_lab.losses import kto as mine\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = run(tmp_path, "optimization.max_steps=1", "loss.function=my_other_losses.mine")
    words = [f"run={folder}", "trainer=cpu", "evaluation=none"]
    with pytest.raises(LabError, match=r"say trust=\[my_other_losses\]"):
        evaluate(composed(words, name="evaluate"))
    assert evaluate(composed([*words, "trust=[my_other_losses]"], name="evaluate")).is_file()


def test_a_folder_of_options_vouches_for_what_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    conf = tmp_path / "my_conf" / "loss"
    conf.mkdir(parents=True)
    (tmp_path / "my_third_losses.py").write_text("from kto_lab.losses import kto as mine\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    (conf / "mine.yaml").write_text("defaults: [kto]\nfunction: my_third_losses.mine\n")
    folder = run(tmp_path, "optimization.max_steps=1", "loss.function=my_third_losses.mine")
    words = [f"run={folder}", "trainer=cpu", "evaluation=none"]
    with pytest.raises(SystemExit):
        cli.run("evaluate", words)
    assert "A run folder is data" in capsys.readouterr().err
    cli.run("evaluate", [*words, "--config-dir", str(conf.parent)])
    assert (folder / "evaluation" / "again.json").is_file()

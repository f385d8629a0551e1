"""conf/: every option composes, every key is explained, every node fits what it names, and the wheel carries it all."""

import inspect
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any, Unpack, get_args, get_origin

import pytest
import yaml
from hydra.utils import get_method, get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from kto_lab import cli
from kto_lab.configuration import check_keys
from kto_lab.keys import TRAIN
from kto_lab.sweeps.study import cells_of
from kto_lab.sweeps.sweep import study_of
from tests.small_runs import composed

CONF = cli.config_dir()
FILES = sorted(CONF.rglob("*.yaml"))
OPTIONS = [
    (folder.name, file.stem)
    for folder in sorted(CONF.iterdir())
    # What is under hydra/ is Hydra's own: tests/studies/test_launchers.py.
    if folder.is_dir() and folder.name != "hydra"
    for file in sorted(folder.iterdir())
]
OF_LOSS = ("value", "reference_point", "weighting")
# What instantiating these would need: a network, or a file of one's own.
NOT_MADE = {"judge", "model", "feedback", "prompts", "trainer", "answers", "export", "labeler"}
# The command that has a group, where it is not train.
COMMAND_OF = {"prompts": "collect", "answers": "label", "labeler": "label", "export": "import"}


def relative(path: Path) -> str:
    return str(path.relative_to(CONF))


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_every_file_and_every_key_is_explained(file: Path) -> None:
    first, *lines = file.read_text().splitlines()
    while first.startswith("# @package"):
        first, *lines = lines
    assert first.startswith("# ") and len(first) > 12
    depth_of_defaults: int | None = None
    in_hydra = False
    for number, line in enumerate(lines):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        indent = len(line) - len(line.lstrip())
        if indent == 0:
            depth_of_defaults = 0 if text == "defaults:" else None
            # Hydra's own keys, and what `docs/studies.md` explains: scales, contrasts, tables and figures.
            in_hydra = text.startswith(("hydra:", "contrasts:", "tables:", "figures:", "scales:"))
        if depth_of_defaults is not None or in_hydra or text.startswith(("-", "_target_", "_partial_", "_convert_")):
            continue
        opens_a_node = text.endswith(":")
        explained_above = number > 0 and lines[number - 1].strip().startswith("#")
        sets_a_default_again = file.parent.name != "conf" and "defaults:" in file.read_text()
        assert "# " in text or opens_a_node or explained_above or sets_a_default_again, f"{file}: {text}"


def wanted(group: str, option: str) -> list[str]:
    if group in OF_LOSS:
        return [f"{group}@loss.{group}={option}"]
    if group == "judge":
        return [f"judge@evaluation.judge={option}"]
    return [f"{group}={option}"]


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids=str)
def test_every_option_composes_and_fits_what_it_names(group: str, option: str) -> None:
    cfg = composed(wanted(group, option), name=COMMAND_OF.get(group, "train"))
    if group == "scale":
        check_keys(cfg, TRAIN)
        return
    if group == "study":
        assert cells_of(study_of(cfg.study), [])
        return
    node = cfg.loss[group] if group in OF_LOSS else cfg.evaluation.judge if group == "judge" else cfg[group]
    assert_fits(node)
    if group not in NOT_MADE:
        instantiate(node)


def assert_fits(node: DictConfig) -> None:
    """Each key of a node is a parameter of its target, and each parameter without a default is a key."""
    target = node._target_
    function = get_method(target) if not inspect.isclass(get_object(target)) else get_object(target)
    keys = {str(key) for key in node if not str(key).startswith("_")}
    named = dict(inspect.signature(function).parameters)
    others = {name: named.pop(name) for name, p in list(named.items()) if p.kind is p.VAR_KEYWORD}
    # `**settings: Unpack[Settings]` names its keywords.
    unpacked = {
        name
        for other in others.values()
        if get_origin(other.annotation) is Unpack
        for name in get_args(other.annotation)[0].__annotations__
    }
    if unpacked or not others:
        assert keys <= set(named) | unpacked, target
    if not node.get("_partial_"):
        needed = {name for name, p in named.items() if p.default is p.empty}
        assert needed | unpacked <= keys, target


def test_the_defaults_are_read_whole() -> None:
    cfg = composed([])
    assert set(cfg) == set(TRAIN)
    check_keys(cfg, TRAIN)
    for name, node in cfg.items():
        if isinstance(node, DictConfig):
            assert_fits(node)
            if name not in NOT_MADE:
                instantiate(node)


@pytest.mark.parametrize("name", [file.stem for file in CONF.glob("*.yaml")])
def test_every_command_composes_and_writes_nothing_of_hydras(name: str) -> None:
    from hydra import compose, initialize_config_dir

    assert name in {command.config for command in cli.COMMANDS.values()}
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(name, ["hydra.run.dir=here"], return_hydra_config=True)
    assert cfg.hydra.output_subdir is None and cfg.hydra.job.chdir is False
    assert not OmegaConf.to_container(cfg.hydra.job_logging, resolve=False).get("handlers")  # type: ignore[union-attr]


def test_no_file_repeats_a_key() -> None:
    class Strict(yaml.SafeLoader):
        pass

    def mapping(loader: Any, node: Any) -> Any:
        keys = [loader.construct_object(key) for key, _ in node.value]
        assert len(keys) == len(set(keys)), keys
        return dict(zip(keys, (loader.construct_object(value, deep=True) for _, value in node.value), strict=True))

    Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    for file in FILES:
        assert yaml.load(file.read_text(), Strict), file


@pytest.mark.slow
def test_a_wheel_carries_conf_data_types_and_license_and_works_alone(tmp_path: Path) -> None:
    source = Path(cli.__file__).resolve().parent.parent
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(source)]
    subprocess.run(build, check=True, timeout=500)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "installed")
    assert {f"kto_lab/conf/{relative(file)}" for file in FILES} <= names
    kinds = (".parquet", ".safetensors", ".jsonl", ".json", ".yaml", ".css", ".js")
    data = [path for path in (source / "kto_lab").rglob("*") if path.suffix in kinds]
    assert data and {str(path.relative_to(source)) for path in data} <= names
    assert "kto_lab/py.typed" in names and any(name.endswith("/licenses/LICENSE") for name in names)
    assert not [name for name in names if "tests" in name or name.endswith(".pyc")]
    done = subprocess.run(
        [sys.executable, "-c", "from kto_lab import cli; print(cli.config_dir()); cli.main()", "train", "--cfg", "job"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")},
    )
    assert str(tmp_path / "installed" / "kto_lab" / "conf") in done.stdout and "batch_size" in done.stdout, done.stderr

"""Any optimiser and schedule of torch, as a YAML file or on the command line; and what does not fit is said early."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from safetensors.torch import load_file
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from kto_lab.configuration import check_keys
from kto_lab.errors import LabError
from kto_lab.keys import TRAIN
from kto_lab.models import load
from kto_lab.training.update_rule import UpdateRule
from tests.small_runs import adamw, composed, options, run
from tests.training.test_fit import SIX, StopError, assert_same_run, stop_at

SGD = ("optimizer=sgd", "optimizer.momentum=0.9", "optimization.learning_rate=0.1")
ADAFACTOR = ("optimizer=adafactor", "optimization.learning_rate=1e-2")


def parameters() -> list[torch.nn.Parameter]:
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(3, 4)), torch.nn.Parameter(torch.randn(4))]


def checked(cfg: DictConfig, *, vectors: bool = True, steps: int = 20) -> None:
    check_keys(cfg, TRAIN)
    rate = cfg.optimization.learning_rate
    UpdateRule.of(cfg).check(learning_rate=rate, vectors=vectors, steps=steps, device=torch.device("cpu"))


def named(node: str, target: str, **keys: object) -> DictConfig:
    """The defaults with another target for a node."""
    cfg = composed([])
    cfg[node] = {"_target_": target, "_partial_": True, **keys}
    return cfg


def test_the_default_is_adamw_with_torchs_own_values() -> None:
    mine, theirs = parameters(), parameters()
    optimizer, schedule = adamw().make(mine, steps=9)
    plain = torch.optim.AdamW(theirs, lr=5e-5, weight_decay=0.0)
    for _ in range(5):
        for group, weights in ((optimizer, mine), (plain, theirs)):
            for weight in weights:
                weight.grad = weight.detach().sin()
            plain.param_groups[0]["lr"] = optimizer.param_groups[0]["lr"]
            group.step()
        schedule.step()
    for one, other in zip(mine, theirs, strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(mine[0], parameters()[0])


@pytest.mark.parametrize("optimizer", options("optimizer"))
@pytest.mark.parametrize("schedule", options("schedule"))
def test_shipped_optimizers_and_schedules_go_together(optimizer: str, schedule: str) -> None:
    if optimizer == "adamw_8bit":
        pytest.importorskip("bitsandbytes", reason="needs the extra 'quantization'")
    # Adafactor has no momentum to cycle.
    more = ["schedule.cycle_momentum=false"] if (optimizer, schedule) == ("adafactor", "one_cycle") else []
    checked(composed([f"optimizer={optimizer}", f"schedule={schedule}", *more]))


def test_a_schedule_of_torchs_is_told_the_steps_of_the_run() -> None:
    cfg = named("schedule", "torch.optim.lr_scheduler.CosineAnnealingLR", T_max="run_steps")
    checked(cfg)
    _, schedule = UpdateRule.of(cfg).make(parameters(), steps=123)
    assert schedule.T_max == 123  # type: ignore[attr-defined]


def test_a_schedule_with_a_state_of_its_own_is_kept_in_a_checkpoint() -> None:
    checked(named("schedule", "torch.optim.lr_scheduler.MultiStepLR", milestones=[4, 8], gamma=0.1))


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        (
            lambda: named("schedule", "torch.optim.lr_scheduler.ReduceLROnPlateau"),
            r"ReduceLROnPlateau, whose step needs metrics; a rate here depends on the step alone.*schedule=cosine",
        ),
        (
            lambda: composed(["optimizer=adafactor", "schedule=one_cycle"]),
            r"OneCycleLR, which does not work here: optimizer must support momentum.*schedule\.cycle_momentum=false",
        ),
        (
            lambda: named("schedule", "torch.optim.lr_scheduler.OneCycleLR", max_lr=0.1, total_steps=5),
            r"schedule names .*OneCycleLR.*Tried to step 6 times.*schedule\.total_steps=5",
        ),
        (
            lambda: named("schedule", "torch.optim.lr_scheduler.CosineAnnealingLR"),
            r"schedule names .*CosineAnnealingLR.*missing 1 required positional argument: 'T_max'",
        ),
        (
            lambda: named("schedule", "torch.optim.lr_scheduler.ExponentialLR", gamma=1e200),
            r"ExponentialLR gives a learning rate of inf at step 3",
        ),
        (
            lambda: named("schedule", "torch.optim.lr_scheduler.StepLR", step=3),
            r"no key 'schedule\.step': .*StepLR would not read it\. Its keys: step_size, gamma",
        ),
        (
            lambda: named("optimizer", "torch.optim.LBFGS", lr="${optimization.learning_rate}"),
            r"LBFGS, whose step needs closure; a step here is made of one gradient.*optimizer=adamw",
        ),
        (
            lambda: named("optimizer", "torch.optim.SparseAdam", lr="${optimization.learning_rate}"),
            r"optimizer names .*SparseAdam, which does not work here: SparseAdam does not support dense gradients",
        ),
        (
            lambda: named("optimizer", "torch.optim.Muon", lr="${optimization.learning_rate}"),
            r"optimizer names .*Muon, which does not work here: Muon only supports 2D parameters",
        ),
        (
            lambda: named("optimizer", "no_such_package.AdamW8bit"),
            r"optimizer\._target_ is 'no_such_package\.AdamW8bit', which cannot be imported",
        ),
        (
            lambda: named("optimizer", "torch.optim.AdamW"),
            r"has a learning rate of 0\.001, and optimization\.learning_rate is 5e-05\. Set the latter",
        ),
        (lambda: composed(["optimizer.weight_decay=-1"]), r"optimizer names .*AdamW.*Invalid weight_decay value: -1"),
        (lambda: composed(["schedule.warmup=2"]), r"schedule\.warmup is 2"),
    ],
)
def test_what_does_not_fit_is_said(cfg: object, message: str) -> None:
    with pytest.raises(LabError, match=message):
        checked(cfg())  # type: ignore[operator]


def test_muon_fits_where_matrices_alone_are_trained() -> None:
    checked(named("optimizer", "torch.optim.Muon", lr="${optimization.learning_rate}"), vectors=False)


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[DeviceMesh]:
    """A mesh of one process: this one."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def test_an_optimizer_that_needs_whole_tensors_is_refused_under_fsdp(mesh: DeviceMesh) -> None:
    for words in ([], SGD):
        UpdateRule.of(composed([*words])).check_sharded(mesh, vectors=True)
    with pytest.raises(LabError, match=r"Adafactor, which does not work on the shards of trainer=fsdp \(trainer=ddp"):
        UpdateRule.of(composed([*ADAFACTOR])).check_sharded(mesh, vectors=True)


def test_a_node_that_calls_at_once_is_refused() -> None:
    cfg = composed([])
    cfg.schedule = {"_target_": "builtins.dict"}
    with pytest.raises(LabError, match=r"schedule needs the key _partial_: true"):
        UpdateRule.of(cfg)


def test_no_model_is_loaded_for_a_schedule_that_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def loading(*_: object, **__: object) -> None:
        raise AssertionError("a model is loaded")

    monkeypatch.setattr(load, "tiny", loading)
    with pytest.raises(LabError, match="must support momentum"):
        run(tmp_path, "optimizer=adafactor", "schedule=one_cycle")


@pytest.mark.parametrize(
    ("words", "resumed"),
    [(SGD, ("momentum_buffer",)), ((*ADAFACTOR, "schedule=one_cycle", "schedule.cycle_momentum=false"), ("row_var",))],
    ids=["sgd with momentum", "adafactor and one cycle"],
)
def test_a_stopped_run_goes_on_bit_for_bit(
    words: tuple[str, ...], resumed: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("straight", "stopped"):
        (tmp_path / name).mkdir()
    straight = run(tmp_path / "straight", *SIX, *words)
    with monkeypatch.context() as patch:
        stop_at(patch, 4)
        with pytest.raises(StopError):
            run(tmp_path / "stopped", *SIX, *words)
    kept = torch.load(tmp_path / "stopped" / "run" / "checkpoints" / "stopped.ckpt", weights_only=True)
    (state,) = kept["optimizer_states"]
    assert any(name in found for found in state["state"].values() for name in resumed)
    run(tmp_path / "stopped", *SIX, *words)
    assert_same_run(straight, tmp_path / "stopped" / "run")


def test_the_optimizer_is_part_of_the_result(tmp_path: Path) -> None:
    found = []
    for name, words in (("adamw", ()), ("sgd", SGD)):
        (tmp_path / name).mkdir()
        folder = run(tmp_path / name, "optimization.max_steps=2", *words)
        found.append(load_file(folder / "policy" / "model.safetensors"))
    assert any(not torch.equal(value, found[1][key]) for key, value in found[0].items())

import os
import subprocess
import sys

import pytest
import torch
from lightning.pytorch.utilities import rank_zero_only

from kto_lab.errors import LabError
from kto_lab.gpus import Machine
from kto_lab.training import hardware as hardware_module
from kto_lab.training.hardware import LAUNCHED, REPEATING, WORKSPACE, Hardware

GOOD = {
    "accelerator": "auto",
    "devices": 1,
    "num_nodes": 1,
    "strategy": "auto",
    "precision": "auto",
    "deterministic": False,
    "compile": False,
}


def hardware(**changes: object) -> Hardware:
    return Hardware(**GOOD | changes)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def no_gpu_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever machine the tests run on."""
    shows(monkeypatch, Machine())


def shows(monkeypatch: pytest.MonkeyPatch, machine: Machine) -> None:
    monkeypatch.setattr(hardware_module.Machine, "here", lambda: machine)


def pretend_gpu(monkeypatch: pytest.MonkeyPatch, there: bool, capability: tuple[int, int] = (8, 0)) -> None:
    def init() -> None:
        if not there:
            raise RuntimeError("Found no NVIDIA driver on your system.")

    monkeypatch.setattr(torch.cuda, "init", init)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4 if there else 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80"])


def test_auto_takes_the_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpu(monkeypatch, True)
    assert (hardware().device.type, hardware().number_format) == ("cuda", "bf16-mixed")
    cpu = hardware(accelerator="cpu")
    assert (cpu.device.type, cpu.number_format) == ("cpu", "32-true")
    pretend_gpu(monkeypatch, False)
    assert (hardware().device.type, hardware().number_format) == ("cpu", "32-true")


def test_the_number_format_holds_outside_training_too(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpu(monkeypatch, False)
    with hardware(precision="bf16-mixed").autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with hardware().autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_each_process_of_a_node_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpu(monkeypatch, True)
    monkeypatch.setenv("SLURM_NTASKS", "4")
    two = hardware(strategy="ddp", devices=2, num_nodes=2)
    found = []
    for rank in range(4):
        monkeypatch.setattr(rank_zero_only, "rank", rank, raising=False)
        found.append(two.device.index)
    assert found == [0, 1, 0, 1]


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpu(monkeypatch, True)
    with pytest.raises(LabError, match=r"trainer\.devices is 5, but the number of visible CUDA devices is 4"):
        hardware(strategy="ddp", devices=5)
    assert hardware(strategy="ddp", devices=5, accelerator="cpu").device.type == "cpu"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": "deepspeed"}, r"trainer\.strategy is 'deepspeed'"),
        ({"strategy": "fsdp"}, r"there is one process\. Set trainer\.devices to 2"),
        ({"strategy": "fsdp", "devices": 2, "compile": True}, r"trainer\.compile needs a whole policy, and fsdp"),
        ({"accelerator": "tpu"}, r"trainer\.accelerator is 'tpu'"),
        ({"precision": "16-mixed"}, r"trainer\.precision is '16-mixed'"),
        ({"devices": 0}, r"trainer\.devices"),
        ({"num_nodes": 0}, r"trainer\.num_nodes"),
        ({"num_nodes": 2}, r"trainer\.num_nodes is 2, and nothing has started processes on other nodes"),
        ({"accelerator": "gpu"}, r"no GPU can be used: Found no NVIDIA driver on your system\."),
    ],
)
def test_what_this_machine_cannot_do_is_refused(
    changes: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_gpu(monkeypatch, False)
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(LabError, match=message):
        hardware(**changes)


def test_a_gpu_that_cannot_be_used_stops_a_run_unless_the_cpu_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpu(monkeypatch, False)
    shows(monkeypatch, Machine(files=("/dev/nvidia0",)))
    with pytest.raises(LabError, match=r"There is a GPU \(/dev/nvidia0\), but.* Found no NVIDIA driver.*trainer=cpu"):
        hardware()
    assert hardware(accelerator="cpu").said == "cpu, 32-true"
    shows(monkeypatch, Machine(files=("/dev/nvidia0",), hidden=True))
    assert hardware().said == "cpu, 32-true (CUDA_VISIBLE_DEVICES hides the GPUs)"


def test_a_gpu_that_only_emulates_bfloat16_trains_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpu(monkeypatch, True, capability=(7, 5))
    assert hardware().number_format == "32-true"
    assert hardware().said == "cuda:0, 32-true (the GPU only emulates products in bfloat16)"
    with pytest.raises(LabError, match=r"trainer\.precision is 'bf16-mixed', but this GPU.*trainer\.precision=32-true"):
        hardware(precision="bf16-mixed")
    assert hardware(precision="bf16-mixed", accelerator="cpu").number_format == "bf16-mixed"
    pretend_gpu(monkeypatch, True, capability=(8, 0))
    assert hardware(precision="bf16-mixed").said == "cuda:0, bf16-mixed"


def test_the_workspace_of_cublas_is_fixed_before_torch_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    monkeypatch.delenv(WORKSPACE, raising=False)
    pretend_gpu(monkeypatch, True)
    monkeypatch.setattr(torch.cuda, "init", lambda: found.append(os.environ.get(WORKSPACE)))
    hardware(deterministic=True, accelerator="cpu")
    hardware()
    hardware(deterministic=True)
    assert found == [None, REPEATING[0]]
    monkeypatch.setenv(WORKSPACE, REPEATING[1])
    hardware(deterministic=True)
    assert os.environ[WORKSPACE] == REPEATING[1], "what a person has chosen stays"


def test_a_process_that_has_used_cuda_can_no_longer_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WORKSPACE, ":0:0")
    pretend_gpu(monkeypatch, True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(LabError, match=f"{WORKSPACE}={REPEATING[0]} in its environment"):
        hardware(deterministic=True)
    monkeypatch.setenv(WORKSPACE, REPEATING[0])
    assert hardware(deterministic=True).device.type == "cuda"


def test_the_command_line_fixes_the_workspace_ahead_of_torch() -> None:
    program = f"""
import os, sys
from kto_lab import cli
from kto_lab.training import hardware
def asked(*_):
    print("torch" in sys.modules, os.environ.get("{WORKSPACE}"))
    os._exit(0)
hardware.ask = asked
sys.argv = ["kto-lab", "train", "scale=tiny", "trainer=auto", "trainer.deterministic=true"]
cli.main()
"""
    environ = {name: value for name, value in os.environ.items() if name != WORKSPACE} | {"PYTHONUNBUFFERED": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1] == f"False {REPEATING[0]}", done.stderr

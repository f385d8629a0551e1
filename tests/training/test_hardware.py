import pytest
import torch
from lightning.pytorch.utilities import rank_zero_only

from kto_lab.errors import LabError
from kto_lab.training.hardware import LAUNCHED, Hardware

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


def pretend_gpu(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4 if there else 0)


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
    with pytest.raises(LabError, match=r"trainer\.devices is 5, but 4 CUDA devices"):
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
        ({"accelerator": "gpu"}, "no CUDA device is visible"),
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

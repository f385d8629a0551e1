import pytest
import torch

from kto_lab.errors import LabError
from kto_lab.training.hardware import Hardware

GOOD = {
    "accelerator": "auto",
    "devices": 1,
    "num_nodes": 1,
    "strategy": "auto",
    "precision": "auto",
    "deterministic": False,
}


def hardware(**changes: object) -> Hardware:
    return Hardware(**GOOD | changes)  # type: ignore[arg-type]


def pretend_gpu(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accelerator": "tpu"}, r"trainer\.accelerator is 'tpu'"),
        ({"precision": "16-mixed"}, r"trainer\.precision is '16-mixed'"),
        ({"devices": 0}, r"trainer\.devices"),
        ({"num_nodes": 0}, r"trainer\.num_nodes"),
        ({"accelerator": "gpu"}, "no CUDA device is visible"),
    ],
)
def test_what_this_machine_cannot_do_is_refused(
    changes: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_gpu(monkeypatch, False)
    with pytest.raises(LabError, match=message):
        hardware(**changes)

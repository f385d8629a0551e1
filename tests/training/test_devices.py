"""Where a run computes: a table of what a machine shows and what torch answers."""

import warnings
from collections.abc import Callable

import pytest
import torch

from kto_lab.gpus import Machine
from kto_lab.training.devices import Answer, ask, choose

NVIDIA = ("/dev/nvidia0",)
GIVEN = ("SLURM_JOB_GPUS=0",)
WORKS = Answer(build="CUDA 13.0", gpus=1)
OLD = Answer(build="CUDA 13.0", gpus=1, reason="The NVIDIA driver on your system is too old (found version 12020)")
NONE = Answer(build="CUDA 13.0", reason="No CUDA GPUs are available")
CPU_BUILD = Answer(reason="Torch not compiled with CUDA enabled")
MAC = Answer(reason="Torch not compiled with CUDA enabled", mps=True)


@pytest.mark.parametrize(
    ("accelerator", "machine", "answer", "device"),
    [
        ("auto", Machine(), WORKS, "cuda"),
        ("gpu", Machine(files=NVIDIA), WORKS, "cuda"),
        ("cpu", Machine(files=NVIDIA), WORKS, "cpu"),
        ("cpu", Machine(files=NVIDIA, given=GIVEN), OLD, "cpu"),
        ("auto", Machine(), CPU_BUILD, "cpu"),
        ("auto", Machine(), NONE, "cpu"),
        # A person has hidden them; that a scheduler gave some is no matter then.
        ("auto", Machine(files=NVIDIA, given=GIVEN, hidden=True), NONE, "cpu"),
        ("auto", Machine(hidden=True), CPU_BUILD, "cpu"),
        ("auto", Machine(in_slurm=True), NONE, "cpu"),
        ("auto", Machine(), MAC, "cpu"),
    ],
)
def test_where_a_run_computes(accelerator: str, machine: Machine, answer: Answer, device: str) -> None:
    choice = choose(accelerator, machine, answer)
    assert (choice.device, choice.refusal) == (device, "")


@pytest.mark.parametrize(
    ("machine", "answer", "words"),
    [
        (Machine(files=NVIDIA), CPU_BUILD, ["/dev/nvidia0", "not compiled with CUDA", "Install a build of torch"]),
        (
            Machine(files=NVIDIA, driver="535.104.05"),
            OLD,
            ["too old (found version 12020).", "The driver is 535.104.05", "CUDA 13.0 needs 580 or newer: update it"],
        ),
        (Machine(files=NVIDIA, driver="580.65.06"), NONE, ["The driver is 580.65.06", "580 or newer; see"]),
        (Machine(given=GIVEN, in_slurm=True), NONE, ["SLURM_JOB_GPUS=0", "No CUDA GPUs are available"]),
        (Machine(given=("CUDA_VISIBLE_DEVICES=0",)), CPU_BUILD, ["CUDA_VISIBLE_DEVICES=0"]),
        (Machine(files=NVIDIA, in_slurm=True), NONE, ["was given none", "hydra.launcher.gpus_per_node"]),
        (Machine(), OLD, ["There is a GPU (torch finds 1)", "too old"]),
        (Machine(files=("/dev/kfd",)), NONE, ["/dev/kfd"]),
    ],
)
def test_a_gpu_that_is_there_and_cannot_be_used_stops_auto(machine: Machine, answer: Answer, words: list[str]) -> None:
    refusal = choose("auto", machine, answer).refusal
    assert not [word for word in [*words, "trainer=cpu"] if word not in refusal], refusal
    assert "update it" in refusal or machine.driver != "535.104.05"


@pytest.mark.parametrize(
    ("machine", "answer", "word"),
    [
        (Machine(), NONE, "No CUDA GPUs are available"),
        (Machine(files=NVIDIA, hidden=True), NONE, "CUDA_VISIBLE_DEVICES is set and names none"),
        (Machine(in_slurm=True), NONE, "The Slurm job was given none"),
        (Machine(), MAC, "not compiled with CUDA"),
    ],
)
def test_a_gpu_that_is_asked_for_must_be_there(machine: Machine, answer: Answer, word: str) -> None:
    refusal = choose("gpu", machine, answer).refusal
    assert refusal.startswith("trainer.accelerator is 'gpu', but no GPU can be used: ") and word in refusal


@pytest.mark.parametrize(
    ("machine", "answer", "remark"),
    [
        (Machine(), MAC, "Apple's GPU is not used"),
        (Machine(in_slurm=True), NONE, "the Slurm job has no GPU"),
        (Machine(files=NVIDIA, hidden=True), NONE, "CUDA_VISIBLE_DEVICES hides the GPUs"),
    ],
)
def test_what_a_person_may_not_expect_is_remarked(machine: Machine, answer: Answer, remark: str) -> None:
    assert choose("auto", machine, answer).remark.startswith(remark)
    assert choose("auto", Machine(), CPU_BUILD).remark == ""


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Answer]:
    """Asks a torch for CUDA 13.0 that finds two GPUs of a capability."""

    def asked(capability: tuple[int, int], built: str = "sm_75 sm_80 sm_90 compute_90", **more: object) -> Answer:
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        answers = {
            "init": lambda: None,
            "is_available": lambda: True,
            "device_count": lambda: 2,
            "get_device_name": lambda index: "Tesla",
            "get_device_capability": lambda index: capability,
            "get_arch_list": built.split,
        }
        for name, answer in (answers | more).items():
            monkeypatch.setattr(torch.cuda, name, answer)
        return ask()

    return asked


@pytest.mark.parametrize(
    ("capability", "works", "bfloat16"),
    [((7, 0), False, True), ((7, 5), True, False), ((8, 6), True, True), ((9, 0), True, True), ((12, 0), True, True)],
    ids=["V100", "T4", "A10", "H100", "later, by its intermediate code"],
)
def test_what_a_gpu_can_do_is_asked(
    capability: tuple[int, int], works: bool, bfloat16: bool, card: Callable[..., Answer]
) -> None:
    answer = card(capability)
    assert (not answer.reason, answer.bfloat16, answer.gpus, answer.build) == (works, bfloat16, 2, "CUDA 13.0")
    assert works or answer.reason == "Tesla has compute capability 7.0, and this torch has no code for it"


def test_code_for_the_architecture_of_another_maker_is_no_reason(card: Callable[..., Answer]) -> None:
    assert card((9, 4), built="gfx90a gfx942").reason == ""
    assert card((10, 0), built="sm_90a").reason != ""


def test_a_gpu_is_used_where_torch_can_use_it_and_not_where_it_only_counts_it(card: Callable[..., Answer]) -> None:
    def too_old() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).\nUpdate it.")

    assert card((8, 0), init=too_old).reason == "The NVIDIA driver on your system is too old (found version 11040)"

    def warns() -> bool:
        warnings.warn("CUDA initialization: an error. Read on", UserWarning, stacklevel=1)
        return False

    answer = card((8, 0), is_available=warns, device_count=lambda: 0)
    assert answer.reason == "CUDA initialization: an error. Read on"
    assert card((8, 0), is_available=lambda: False, device_count=lambda: 0).reason == "torch gives no reason"

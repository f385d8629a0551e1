"""What a machine shows of its GPUs, read from a file system and an environment of the test's own."""

from pathlib import Path

import pytest

from kto_lab import gpus
from kto_lab.gpus import Machine, cells_at_once, gpus_per_node, identified, identifiers, visible

CLOSED = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\nGCC version: 12\n"
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs-builder)\n"
WHOLE = "GPU 0: NVIDIA A100 (UUID: GPU-aa)\nGPU 1: NVIDIA A100 (UUID: GPU-bb)\n"
DIVIDED = """GPU 0: NVIDIA A100 (UUID: GPU-aa)
  MIG 3g.20gb     Device  0: (UUID: MIG-cc)
  MIG 3g.20gb     Device  1: (UUID: MIG-dd)
GPU 1: NVIDIA A100 (UUID: GPU-bb)
"""


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


CARD = "sys/class/drm/card0/device/mem_info_vram_total"
LIBRARY = "usr/lib/wsl/lib/libcuda.so.1"


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({}, ()),
        ({"dev/nvidiactl": "", "dev/nvidia-uvm": ""}, ()),
        ({"dev/nvidia1": "", "dev/nvidia0": "", "dev/nvidiactl": ""}, ("/dev/nvidia0", "/dev/nvidia1")),
        ({"dev/kfd": ""}, ("/dev/kfd",)),
        ({"dev/kfd": "", CARD: f"{16 * 2**30}\n"}, ("/dev/kfd",)),
        ({"dev/kfd": "", CARD: f"{2**29}\n"}, ()),
        ({"dev/dxg": "", LIBRARY: ""}, ("/dev/dxg",)),
        ({"dev/dxg": ""}, ()),
    ],
    ids=["none", "driver only", "two", "amd", "amd card", "processor's own", "wsl", "wsl without nvidia"],
)
def test_device_files_tell_gpus(files: dict[str, str], found: tuple[str, ...], tmp_path: Path) -> None:
    assert Machine.here(write(tmp_path, files), {}).files == found


@pytest.mark.parametrize(
    ("environ", "given", "hidden"),
    [
        ({}, (), False),
        ({"CUDA_VISIBLE_DEVICES": "2,3"}, ("CUDA_VISIBLE_DEVICES=2,3",), False),
        ({"CUDA_VISIBLE_DEVICES": ""}, (), True),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, (), True),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, (), False),
        ({"SLURM_JOB_GPUS": "0"}, ("SLURM_JOB_GPUS=0",), False),
        ({"SLURM_STEP_GPUS": "1"}, ("SLURM_STEP_GPUS=1",), False),
        ({"SLURM_GPUS_ON_NODE": "0", "SLURM_JOB_GPUS": ""}, (), False),
        ({"SLURM_GPUS_ON_NODE": "2"}, ("SLURM_GPUS_ON_NODE=2",), False),
    ],
)
def test_variables_tell_what_is_given(
    environ: dict[str, str], given: tuple[str, ...], hidden: bool, tmp_path: Path
) -> None:
    found = Machine.here(tmp_path, environ)
    assert (found.given, found.hidden, found.in_slurm) == (given, hidden, False)
    assert Machine.here(tmp_path, environ | {"SLURM_JOB_ID": "7"}).in_slurm


@pytest.mark.parametrize(("text", "version"), [(CLOSED, "535.104.05"), (OPEN, "580.65.06"), ("nothing", "")])
def test_the_driver_tells_its_version(text: str, version: str, tmp_path: Path) -> None:
    assert Machine.here(write(tmp_path, {"proc/driver/nvidia/version": text}), {}).driver == version
    assert Machine.here(tmp_path / "elsewhere", {}).driver == ""


def test_nvidia_smi_names_gpus_and_the_instances_of_divided_ones() -> None:
    assert identifiers(WHOLE) == ("GPU-aa", "GPU-bb")
    assert identifiers(DIVIDED) == ("MIG-cc", "MIG-dd", "GPU-bb")
    assert identifiers("") == ()


@pytest.mark.parametrize(
    ("listed", "name", "identifier"),
    [
        (WHOLE, "1", "GPU-bb"),
        (WHOLE, "2", "2"),
        (WHOLE, "GPU-b", "GPU-bb"),
        (WHOLE, "GPU-bb", "GPU-bb"),
        (WHOLE, "GPU-cc", "GPU-cc"),
        (DIVIDED, "0", "0"),
        (DIVIDED, "MIG-cc", "MIG-cc"),
        ("", "1", "1"),
    ],
)
def test_a_gpu_has_one_identifier_however_it_is_named(
    listed: str, name: str, identifier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpus, "_nvidia_smi", lambda: listed)
    assert identified(name) == identifier


def test_visible_gpus_are_those_given_else_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "_nvidia_smi", lambda: WHOLE)
    assert visible(tmp_path, {"CUDA_VISIBLE_DEVICES": "3, 1"}) == ("3", "1")
    assert visible(tmp_path, {"CUDA_VISIBLE_DEVICES": "3,-1,1"}) == ("3",), "CUDA stops there, too"
    assert visible(tmp_path, {"CUDA_VISIBLE_DEVICES": ""}) == ()
    assert visible(tmp_path, {}) == ("GPU-aa", "GPU-bb")
    monkeypatch.setattr(gpus, "_nvidia_smi", lambda: "")
    assert visible(write(tmp_path, {"dev/nvidia0": "", "dev/nvidia4": "", "dev/nvidiactl": ""}), {}) == ("0", "1")


@pytest.mark.parametrize(
    ("names", "accelerator", "devices", "cells"),
    [
        ("0,1,2,3,4,5,6,7", "auto", 1, 8),
        ("0,1,2,3,4,5,6,7", "gpu", 2, 4),
        ("0,1,2", "gpu", 2, 1),
        ("0", "gpu", 2, 1),
        ("0,1", "gpu", 0, 2),  # which the trainer refuses
        ("0,1,2,3", "cpu", 1, 2),
        ("", "auto", 1, 2),
    ],
)
def test_as_many_cells_at_once_as_have_gpus_of_their_own(
    names: str, accelerator: str, devices: int, cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", names)
    assert cells_at_once(accelerator, devices) == cells


def test_a_job_asks_for_gpus_where_its_run_needs_them() -> None:
    assert [gpus_per_node(name, 4) for name in ("gpu", "auto", "cpu")] == [4, None, None]

"""`model.dtype` is a matter of memory: whatever format a model is loaded in, its training is that of float32."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kto_lab.errors import LabError
from kto_lab.models.load import hf, tiny
from kto_lab.runs.command import train
from kto_lab.runs.record import read_record
from kto_lab.training.callbacks import METRICS
from tests.small_runs import composed, metrics, overrides

TRAINING = ("optimization.max_steps=6", "optimization.learning_rate=5e-6", "schedule=constant")
LORA = ("adapter=lora", "adapter.rank=4")


def saved(folder: Path, dtype: str) -> Path:
    """The tiny policy, its weights in this format."""
    loaded = tiny("arithmetic", seed=0)
    loaded.model.to(getattr(torch, dtype)).save_pretrained(str(folder))
    loaded.tokenizer.save_pretrained(folder)
    return folder


def trained(folder: Path, base: Path, dtype: str, *more: str) -> Path:
    folder.mkdir()
    words = [
        word for word in overrides(folder, *TRAINING, *more) if not word.startswith(("model=tiny", "model.weights="))
    ]
    return train(composed([*words, "model=hf", f"model.name={base}", f"model.dtype={dtype}"]))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = folder.glob("*.safetensors")
    return load_file(file)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_full_fine_tuning_moves_every_weight_as_float32_does(tmp_path: Path, dtype: str) -> None:
    base = saved(tmp_path / "base", dtype)
    short, exact = (trained(tmp_path / name, base, name) for name in (dtype, "float32"))
    assert (short / METRICS).read_bytes() == (exact / METRICS).read_bytes()
    start, end, wanted = weights(base), weights(short / "policy"), weights(exact / "policy")
    assert {weight.dtype for weight in end.values()} == {torch.float32}
    changed = sum(int((end[name] != start[name].float()).sum()) for name in end) / sum(map(torch.numel, end.values()))
    assert changed > 0.8, "embeddings of bytes that the thumbs do not have stay"
    assert all(torch.equal(end[name], wanted[name]) for name in end)
    said = read_record(short)["model"]
    assert (said["dtype"], said["trained_dtype"], said["frozen_dtype"]) == (dtype, "float32", None)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_adapters_are_float32_and_learn_on_a_short_base(tmp_path: Path, dtype: str, precision: str) -> None:
    base, lora = saved(tmp_path / "base", dtype), (*LORA, f"trainer.precision={precision}", "adapter.merge=true")
    short, exact = (trained(tmp_path / name, base, name, *lora) for name in (dtype, "float32"))
    # A fresh adapter on a 16-bit base is drawn in 16 bits, so the runs are alike, not the same.
    for row, other in zip(metrics(short), metrics(exact), strict=True):
        assert float(row["loss"]) == pytest.approx(float(other["loss"]), abs=2e-4)
    said = read_record(short)["model"]
    kept = "float32" if precision == "32-true" else "bfloat16, float32"
    assert (said["dtype"], said["trained_dtype"], said["frozen_dtype"]) == (dtype, "float32", kept)
    # Merged in float32: a small adapter moves every weight that it is added to.
    start, end = weights(base), weights(short / "policy")
    moved = {name for name in end if name.endswith("proj.weight") and (end[name] != start[name].float()).all()}
    assert {weight.dtype for weight in end.values()} == {torch.float32} and moved


def test_weights_beyond_float16_are_refused_by_name(tmp_path: Path) -> None:
    base = saved(tmp_path / "base", "float32")
    loaded = tiny("arithmetic", seed=0)
    with torch.no_grad():
        loaded.model.model.layers[0].mlp.up_proj.weight[0, 0] = 1e5
    loaded.model.save_pretrained(str(base))
    with pytest.raises(LabError, match=r"up_proj.*model\.dtype=bfloat16 or float32"):
        hf(str(base), dtype="float16", attention="sdpa")


def test_flash_attention_needs_short_products(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"flash_attention_2.*trainer\.precision=bf16-mixed"):
        trained(tmp_path / "run", tmp_path / "nowhere", "bfloat16", "model.attention=flash_attention_2")

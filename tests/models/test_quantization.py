"""Quantised bases under adapters. What needs the libraries runs where the extra `quantization` is installed."""

import copy
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import PreTrainedModel

from kto_lab.errors import LabError
from kto_lab.models import quantization
from kto_lab.models.load import hf, tiny
from kto_lab.models.number_format import as_read
from kto_lab.models.store_scorer import weights_hash
from kto_lab.runs import loading
from kto_lab.runs.command import train
from kto_lab.runs.evaluate import evaluate
from kto_lab.runs.record import read_record
from tests.small_runs import composed, configuration, metrics, overrides

KINDS = ("nf4", "int8")
LORA = ("adapter=lora", "adapter.rank=4", "optimization.max_steps=3")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny policy as a folder."""
    folder = tmp_path_factory.mktemp("base")
    loaded = tiny("arithmetic", seed=0)
    loaded.model.save_pretrained(str(folder))
    loaded.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(quantization.LIBRARY[request.param], reason="needs the extra 'quantization'")
    return str(request.param)


def onto(base: Path, folder: Path, kind: str, *more: str) -> list[str]:
    folder.mkdir()
    words = [word for word in overrides(folder) if not word.startswith(("model=tiny", "model.weights="))]
    return [*words, "model=hf", f"model.name={base}", f"model.quantization={kind}", *LORA, *more]


def dense(model: PreTrainedModel, base: Path, dtype: str) -> PreTrainedModel:
    """The base in float32, with the weights that the quantised layers of a model compute with."""
    plain = hf(str(base), dtype=dtype, attention="sdpa").model.float()
    for name, layer in model.named_modules():
        if quantization.is_quantised(layer):
            plain.get_submodule(name).weight.data = quantization.dequantised(layer)
    return plain


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    for kind, library in quantization.LIBRARY.items():
        with pytest.raises(LabError, match=rf"model\.quantization={kind} needs {library}.*kto-lab\[quantization\]"):
            quantization.config_of(kind)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("adapter=none",), r"freezes the model's weights, and adapter=none trains them\. Use adapter=lora"),
        (("adapter=lora", "trainer=fsdp", "trainer.accelerator=cpu"), "fsdp cannot cut into shards"),
    ],
)
def test_what_does_not_go_with_it_is_refused_before_anything_is_loaded(
    tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    few = [word for word in overrides(tmp_path) if not word.startswith(("model=tiny", "model.weights=", "trainer="))]
    with pytest.raises(LabError, match=said):
        train(composed([*few, "model=hf", "model.name=nowhere", "model.quantization=nf4", *words]))


def test_a_folder_of_quantised_weights_is_not_cut_into_shards_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No key says that its weights are quantised."""
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr(loading, "quantised", lambda model: [model.lm_head])
    with pytest.raises(LabError, match="holds quantised weights, which fsdp cannot cut into shards"):
        train(configuration(tmp_path, "adapter=lora", "trainer=fsdp", "trainer.accelerator=cpu"))


def test_nothing_of_a_plain_model_is_taken_for_quantised() -> None:
    model = tiny("random", seed=0).model
    assert not quantization.quantised(model) and quantization.kind_of(model, "tiny") is None
    weight = model.lm_head.weight
    (own,) = quantization.contents(weight)
    assert own.data_ptr() == weight.data_ptr() and quantization.numbers_in(weight) == weight.numel()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("number_format", ["32-true", "bf16-mixed"])
def test_it_computes_with_the_dequantised_weights(base: Path, kind: str, dtype: str, number_format: str) -> None:
    model = hf(str(base), dtype=dtype, attention="sdpa", quantization=kind).model
    as_read(model, number_format=number_format, trained=False)
    assert quantization.quantised(model) and quantization.kind_of(model, "it") == kind
    autocast = torch.autocast("cpu", dtype=torch.bfloat16) if number_format == "bf16-mixed" else nullcontext()
    ids, copied, generator = torch.arange(24)[None], copy.deepcopy(model), torch.Generator().manual_seed(0)
    with torch.no_grad(), autocast:
        for layer in quantization.quantised(model):
            rows = torch.randn(7, layer.in_features, generator=generator)
            found, wanted = layer(rows).float(), F.linear(rows, quantization.dequantised(layer)).float()
            assert (found - wanted).abs().max() <= (1e-5 if number_format == "32-true" else 0.01) * wanted.abs().max()
        assert torch.equal(model(input_ids=ids).logits, copied(input_ids=ids).logits)
        if number_format == "32-true":  # where no sum of roundings comes between
            assert torch.allclose(
                model(input_ids=ids).logits, dense(model, base, dtype)(input_ids=ids).logits, atol=1e-4
            )


def test_the_hash_of_weights_reads_their_scales(base: Path, kind: str) -> None:
    model = hf(str(base), dtype="float32", attention="sdpa", quantization=kind).model
    before = weights_hash(model)
    assert weights_hash(copy.deepcopy(model)) == before
    weight = model.model.layers[0].mlp.up_proj.weight
    (weight.quant_state.absmax if kind == "nf4" else weight.scale).view(torch.uint8).view(-1)[3] += 1
    assert weights_hash(model) != before


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_an_adapter_learns_over_it(base: Path, tmp_path: Path, kind: str, precision: str) -> None:
    words = onto(base, tmp_path / "one", kind, f"trainer.precision={precision}", "evaluation=quick")
    folder = train(composed([*words, "evaluation.prompts=0", "evaluation.kl_prompts=0"]))
    record, rows = read_record(folder), metrics(folder)
    assert record["model"]["quantization"] == kind and record["model"]["saved_difference"] == 0
    assert record["model"]["parameters"] > 1_000_000, "two weights in a byte are two weights"
    assert abs(float(rows[0]["reward_margin"])) < 1e-6 < abs(float(rows[-1]["reward_margin"]))
    assert all("lora" in name for name in load_file(folder / "policy" / "adapter_model.safetensors"))
    judged = read_record(evaluate(composed([f"run={folder}", f"trainer.precision={precision}"], name="evaluate")))
    assert judged["metrics"]["rewards"] == record["metrics"]["rewards"]


def test_an_adapter_is_merged_into_the_dequantised_base(base: Path, tmp_path: Path, kind: str) -> None:
    merged = train(composed(onto(base, tmp_path / "merged", kind, "adapter.merge=true")))
    apart = train(composed(onto(base, tmp_path / "apart", kind)))
    assert (merged / "metrics.csv").read_bytes() == (apart / "metrics.csv").read_bytes()
    assert read_record(merged)["model"]["saved_difference"] < 1e-3
    weights = load_file(merged / "policy" / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    # What goes on from the adapter alone is the same model.
    loaded = hf(str(apart / "policy"), dtype="float32", attention="sdpa", quantization=kind)
    up = "model.layers.0.mlp.up_proj.weight"
    assert torch.allclose(dict(loaded.model.named_parameters())[up], weights[up], atol=1e-6)


def test_an_adapter_goes_onto_the_base_that_it_was_trained_over(base: Path, tmp_path: Path, kind: str) -> None:
    apart = train(composed(onto(base, tmp_path / "apart", kind)))
    with pytest.raises(LabError, match=rf"trained over weights in {kind}.*Set model\.quantization={kind}"):
        hf(str(apart / "policy"), dtype="float32", attention="sdpa")


def test_moments_in_8_bits_need_a_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(LabError, match=r"optimizer=adamw_8bit needs bitsandbytes.*kto-lab\[quantization\]"):
        train(configuration(tmp_path, "optimizer=adamw_8bit"))


def test_a_run_with_moments_in_8_bits(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="needs the extra 'quantization'")
    rows = {}
    for name in ("adamw_8bit", "adamw"):
        (tmp_path / name).mkdir()
        folder = train(configuration(tmp_path / name, f"optimizer={name}", "optimization.max_steps=6"))
        rows[name] = [float(row["loss"]) for row in metrics(folder)]
    assert rows["adamw_8bit"] != rows["adamw"] and rows["adamw_8bit"] == pytest.approx(rows["adamw"], abs=0.05)

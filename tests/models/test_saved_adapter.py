"""Folders that hold an adapter: what they stand for, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from kto_lab.errors import LabError
from kto_lab.hashing import sha256_file
from kto_lab.models.adapters import Lora
from kto_lab.models.load import Loaded, hf
from kto_lab.models.reference import ReferencePolicy, check_loaded, initial
from kto_lab.models.saved_adapter import merged
from kto_lab.models.store_scorer import scorer_of

IDS = torch.tensor([[5, 6, 7, 40, 41]])


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits


def trained(model: LlamaForCausalLM, **settings: Any) -> PeftModel:
    """The model with an adapter that changes what it says."""
    given = {"r": 2, "lora_alpha": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **settings}
    policy = get_peft_model(model, LoraConfig(**given))
    torch.manual_seed(1)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name or "lora_embedding_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return policy


@pytest.fixture
def base(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> LlamaForCausalLM:
    """A model with a folder of its own, which it knows."""
    folder = tmp_path / "base"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return LlamaForCausalLM.from_pretrained(folder)


def saved(policy: PeftModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> Path:
    policy.save_pretrained(folder, save_embedding_layers=False)
    tokenizer.save_pretrained(folder)
    return folder


def load(folder: Path, **settings: Any) -> Loaded:
    return hf(str(folder), **{"dtype": "float32", "attention": "sdpa", **settings})


KINDS = {
    "plain": {},
    "dora": {"use_dora": True},
    "rank-stabilised": {"use_rslora": True},
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "both": {"target_modules": ["embed_tokens", "lm_head"]},
    "whole module": {"target_modules": ["q_proj"], "modules_to_save": ["norm"]},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kept", ["merge", "keep"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_with_an_adapter_is_its_base_with_the_adapter(
    base: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, kind: str, kept: str
) -> None:
    before = logits(base)
    policy = trained(base, **KINDS[kind])
    if kind == "whole module":
        torch.nn.init.normal_(policy.base_model.model.model.norm.modules_to_save["default"].weight)
    wanted = logits(policy)
    loaded = load(saved(policy, tokenizer, tmp_path / "a"), saved_adapter=kept)
    assert isinstance(loaded.model, PeftModel) == (kept == "keep")
    assert not torch.allclose(wanted, before, atol=1e-2)
    torch.testing.assert_close(logits(loaded.model), wanted, rtol=1e-4, atol=1e-4)
    if kept == "merge":
        # What it is on the disk is what it is in memory, where the head had shared its weight with the embedding, too.
        loaded.model.save_pretrained(tmp_path / "whole")
        tokenizer.save_pretrained(tmp_path / "whole")
        torch.testing.assert_close(logits(load(tmp_path / "whole").model), wanted, rtol=1e-4, atol=1e-4)
        assert all(parameter.requires_grad for parameter in loaded.model.parameters())


def test_the_record_names_both_by_their_hashes(
    base: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    folder = saved(trained(base), tokenizer, tmp_path / "a")
    found = load(folder).provenance
    assert found["base"] == {"name": "base", "weights": sha256_file(tmp_path / "base" / "model.safetensors")}
    assert found["adapter"] == {
        "name": "a",
        "weights": sha256_file(folder / "adapter_model.safetensors"),
        "kept": False,
        "in_bfloat16": pytest.approx(1, abs=0.2),
    }
    assert len({found["weights"], found["base"]["weights"], found["adapter"]["weights"]}) == 3


def test_the_store_never_takes_the_bare_base_for_it(
    base: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    folder = saved(trained(base), tokenizer, tmp_path / "a")
    models = [load(tmp_path / "base").model, load(folder).model, load(folder, saved_adapter="keep").model]
    keys = {scorer_of(m, name="m", number_format="32-true", device=torch.device("cpu")).key for m in models}
    assert len(keys) == 3


def test_an_adapter_on_a_folder_with_an_adapter_goes_onto_both(
    base: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(trained(base), tokenizer, tmp_path / "a")
    # Named from where it stands, and found from elsewhere.
    monkeypatch.chdir(tmp_path)
    second = trained(load(Path("a")).model, target_modules=["up_proj"])
    wanted = logits(second)
    saved(second, tokenizer, tmp_path / "b")
    monkeypatch.chdir("/")
    torch.testing.assert_close(logits(load(tmp_path / "b").model), wanted, rtol=1e-4, atol=1e-4)


def test_the_tokenizer_beside_the_adapter_is_used_or_else_that_of_the_base(
    base: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    folder = saved(trained(base), tokenizer, tmp_path / "a")
    (folder / "chat_template.jinja").write_text("own")
    assert load(folder).tokenizer.chat_template == "own"
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).unlink(missing_ok=True)
    assert load(folder).tokenizer.chat_template == tokenizer.chat_template


def test_merging_rounds_once(base: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    policy = trained(base.to(torch.bfloat16), target_modules=["up_proj"])
    layer = policy.base_model.model.model.layers[0].mlp.up_proj
    exact = layer.base_layer.weight.float() + layer.get_delta_weight("default").float()
    folder = saved(policy, tokenizer, tmp_path / "a")
    found = load(folder, dtype="bfloat16").model
    assert torch.equal(found.model.layers[0].mlp.up_proj.weight, exact.bfloat16())
    assert found.model.rotary_emb.inv_freq.dtype == torch.float32


def test_an_adapter_that_bfloat16_rounds_away_is_not_merged(
    base: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    # A base of bfloat16 numbers, and a change of less than half a step between them.
    base.to(torch.bfloat16).to(torch.float32).save_pretrained(tmp_path / "base")
    policy = trained(base, lora_alpha=5e-5)
    folder = saved(policy, tokenizer, tmp_path / "a")
    provenance = load(folder).provenance
    assert provenance["adapter"]["in_bfloat16"] < 0.2
    said = r"less than bfloat16 can say: merged, \d+% of the change is left"
    with pytest.raises(LabError, match=said):
        load(folder, dtype="bfloat16")
    with pytest.raises(LabError, match=said):
        check_loaded(provenance, initial(), number_format="bf16-mixed")
    check_loaded(provenance, initial(), number_format="32-true")
    load(folder, dtype="bfloat16", saved_adapter="keep")


def test_a_kept_adapter_is_its_own_reference(
    base: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    start = trained(base)
    wanted = logits(start)
    folder = saved(start, tokenizer, tmp_path / "a")
    lora = Lora(rank=2, alpha=4, dropout=0.0, target_modules="all-linear", merge=False)
    policy = lora.attach(load(folder, saved_adapter="keep").model)
    torch.testing.assert_close(logits(policy), wanted, rtol=0, atol=0)
    of_training = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
    assert of_training and all(".default" in name for name in of_training)
    for parameter in policy.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05
    moved = logits(policy)
    with ReferencePolicy(lambda: pytest.fail("no second copy is needed"), inside=True).of(policy) as reference:
        torch.testing.assert_close(logits(reference), wanted, rtol=0, atol=0)
    assert {name for name, parameter in policy.named_parameters() if parameter.requires_grad} == of_training
    torch.testing.assert_close(logits(policy), moved, rtol=0, atol=0)
    assert not torch.allclose(moved, wanted, atol=1e-2)
    torch.testing.assert_close(logits(merged(policy).model), moved, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("adapter", "said"),
    [
        ({"rank": 3}, r"adapter\.rank is 3, and its own is 2"),
        ({"alpha": 8}, r"adapter\.alpha is 8, and its own is 4"),
        ({"target_modules": ["q_proj"]}, r"adapter\.target_modules is \['q_proj'\], and its own is \['down_proj"),
    ],
)
def test_a_kept_adapter_is_trained_as_it_is(
    base: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, adapter: dict[str, Any], said: str
) -> None:
    folder = saved(trained(base), tokenizer, tmp_path / "a")
    given = {"rank": 2, "alpha": 4, "dropout": 0.0, "target_modules": "all-linear", "merge": False, **adapter}
    with pytest.raises(LabError, match=said):
        Lora(**given).attach(load(folder, saved_adapter="keep").model)


def test_a_kept_adapter_of_another_kind_is_refused(
    base: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    folder = saved(trained(base, use_dora=True), tokenizer, tmp_path / "a")
    lora = Lora(rank=2, alpha=4, dropout=0.0, target_modules="all-linear", merge=False)
    with pytest.raises(LabError, match="sets use_dora, which adapter=lora cannot train further"):
        lora.attach(load(folder, saved_adapter="keep").model)


def test_a_kept_adapter_of_other_layers_is_refused(
    base: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    folder = saved(trained(base, target_modules=["layers.0.mlp.up_proj"]), tokenizer, tmp_path / "a")
    lora = Lora(rank=2, alpha=4, dropout=0.0, target_modules=["up_proj"], merge=False)
    with pytest.raises(LabError, match="sets target_modules, which adapter=lora cannot train further"):
        lora.attach(load(folder, saved_adapter="keep").model)


def change_config(folder: Path, **values: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def without_one_weight(folder: Path) -> None:
    weights = load_file(folder / "adapter_model.safetensors")
    del weights[min(weights)]
    save_file(weights, folder / "adapter_model.safetensors")


def with_one_weight_more(folder: Path) -> None:
    weights = load_file(folder / "adapter_model.safetensors")
    weights["base_model.model.model.layers.7.mlp.up_proj.lora_A.weight"] = torch.zeros(2, 32)
    save_file(weights, folder / "adapter_model.safetensors")


SPOILT = {
    "lacks base_model": without_one_weight,
    "has base_model.*7.*no place for": with_one_weight_more,
    "does not fit the base .*size mismatch": lambda folder: change_config(folder, r=3),
    "of the kind IA3": lambda folder: change_config(folder, peft_type="IA3"),
    "sets new_idea, which the peft installed here does not know": lambda folder: change_config(folder, new_idea=3),
    "sets layer_replication": lambda folder: change_config(folder, layer_replication=[[0, 2], [1, 2]]),
    "does not fit LlamaForCausalLM": lambda folder: change_config(folder, target_modules=["nowhere"]),
    "is no configuration": lambda folder: (folder / "adapter_config.json").write_text("{"),
    "no adapter_model.safetensors": lambda folder: (folder / "adapter_model.safetensors").unlink(),
    "holds a whole model and an adapter": lambda folder: (folder / "config.json").write_text("{}"),
    "names no base; give it with model.base": lambda folder: change_config(folder, base_model_name_or_path=None),
    "needs its base '/gone'.*names.*give it with model.base=PATH": lambda folder: change_config(
        folder, base_model_name_or_path="/gone"
    ),
    "cannot be its own base": lambda folder: change_config(folder, base_model_name_or_path=str(folder)),
    "an adapter for SEQ_CLS": lambda folder: change_config(folder, task_type="SEQ_CLS"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("said", SPOILT)
def test_what_does_not_fit_is_refused(
    base: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, said: str
) -> None:
    folder = saved(trained(base), tokenizer, tmp_path / "a")
    load(folder)
    SPOILT[said](folder)
    with pytest.raises(LabError, match=said):
        load(folder)


def test_a_base_that_has_moved_can_be_given(
    base: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    policy = trained(base)
    wanted = logits(policy)
    folder = saved(policy, tokenizer, tmp_path / "a")
    (tmp_path / "base").rename(tmp_path / "moved")
    torch.testing.assert_close(logits(load(folder, base=str(tmp_path / "moved")).model), wanted, rtol=1e-4, atol=1e-4)
    with pytest.raises(LabError, match=r"model\.base is for an adapter"):
        load(tmp_path / "moved", base=str(tmp_path / "moved"))
    with pytest.raises(LabError, match=r"model\.saved_adapter is 'drop'"):
        load(folder, saved_adapter="drop")


def test_another_base_than_that_of_the_run_is_refused(
    base: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    folder = saved(trained(base), tokenizer, tmp_path / "run" / "policy")
    right = sha256_file(tmp_path / "base" / "model.safetensors")
    records = {
        right: {"weights": right},
        "that of what it went on with": {"weights": "both", "base": {"weights": right}, "adapter": {"kept": True}},
        "another": {"weights": "another"},
    }
    for name, model in records.items():
        (tmp_path / "run" / "record.json").write_text(json.dumps({"model": model}))
        if name == "another":
            with pytest.raises(LabError, match="was trained on other weights than those of base"):
                load(folder)
        else:
            load(folder)


def test_weights_that_a_model_lacks_are_not_drawn(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LabError, match=r"lack model\.layers\.1\.mlp\.up_proj\.weight, which would be random"):
        load(tmp_path)

"""Runs that go on from the folder of another run, where that holds an adapter."""

import json
from pathlib import Path
from typing import Any

import pytest

from kto_lab.errors import LabError
from kto_lab.feedback.command import collect_feedback
from kto_lab.hashing import sha256_file
from kto_lab.runs.command import train
from kto_lab.runs.evaluate import evaluate
from kto_lab.runs.identity import identify
from kto_lab.runs.record import read_record
from tests.small_runs import composed, metrics

RUN = ["scale=tiny", "optimization.max_steps=4", "optimization.learning_rate=2e-3"]
RUN += ["evaluation.prompts=40", "evaluation.reward_examples=16", "evaluation.kl_prompts=4"]
LORA = ["adapter=lora", "adapter.rank=4", "adapter.alpha=16"]


def trained(folder: Path, *words: str) -> dict[str, Any]:
    """The record of a run of four steps."""
    return read_record(
        train(composed([*RUN, f"run_dir={folder}", f"reference_store.folder={folder.parent}/s", *words]))
    )


def onto(folder: Path) -> list[str]:
    return ["model=hf", f"model.name={folder / 'policy'}"]


def answers(record: dict[str, Any], of: str) -> dict[str, float]:
    return {name: values[of]["value"] for name, values in record["metrics"]["answers"].items()}


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that taught an adapter by SFT."""
    folder = tmp_path_factory.mktemp("taught") / "sft"
    trained(folder, *LORA, "loss=sft")
    return folder


@pytest.mark.parametrize(
    "words",
    [LORA, [*LORA, "model.saved_adapter=keep"], ["adapter=none", "optimization.learning_rate=1e-5"]],
    ids=["merged", "kept", "all weights"],
)
def test_a_run_starts_where_the_adapter_ended(taught: Path, tmp_path: Path, words: list[str]) -> None:
    first = read_record(taught)
    second = trained(tmp_path / "kto", *words, *onto(taught))
    bare = trained(tmp_path / "bare", *words[: 3 if words[0] == "adapter=lora" else 1])
    assert answers(first, "base") != answers(first, "trained")
    assert answers(second, "base") == answers(first, "trained")
    assert answers(bare, "base") == answers(first, "base")
    # It is its own reference, and the store has not taken the bare base for it.
    rows, of_bare = metrics(tmp_path / "kto"), metrics(tmp_path / "bare")
    assert abs(float(rows[0]["reward_margin"])) < 1e-4
    assert rows[-1]["loss"] != of_bare[-1]["loss"]
    mine, theirs = (
        json.loads((tmp_path / name / "evaluation" / "base.json").read_text())["logps"] for name in ("kto", "bare")
    )
    assert max(abs(a - b) for a, b in zip(mine, theirs, strict=True)) > 0.01
    about = second["model"]
    assert about["base"]["weights"] == first["model"]["weights"]
    assert about["adapter"]["weights"] == sha256_file(taught / "policy" / "adapter_model.safetensors")
    # Judged again it is what it was, and so is its folder alone.
    words = [f"evaluation.{name}" for name in ("prompts=40", "reward_examples=16", "kl_prompts=4", "max_new_tokens=4")]
    again = read_record(
        evaluate(composed(["evaluation=quick", *words, "trainer=cpu", f"run={tmp_path / 'kto'}"], name="evaluate"))
    )
    assert again["metrics"] == second["metrics"]
    alone = ["feedback=arithmetic", "evaluation=quick", *words, "trainer=cpu", f"output={tmp_path}/alone.json"]
    found = read_record(evaluate(composed([*alone, *onto(tmp_path / "kto")], name="evaluate")))
    assert {name: value["value"] for name, value in found["metrics"]["answers"].items()} == answers(second, "trained")


@pytest.mark.parametrize("merge", ["true", "false"])
def test_a_key_makes_the_bare_base_the_reference(taught: Path, tmp_path: Path, merge: str) -> None:
    words = [*LORA, *onto(taught), "model.saved_adapter=keep", "reference=base", f"adapter.merge={merge}"]
    found = trained(tmp_path / "kto", *words)
    bare = trained(tmp_path / "bare", *LORA)
    assert answers(found, "base") == answers(bare, "base")
    mine, theirs = (
        json.loads((tmp_path / name / "evaluation" / "base.json").read_text())["logps"] for name in ("kto", "bare")
    )
    assert mine == pytest.approx(theirs, abs=1e-4)
    # What SFT taught is a reward from the first step on, and is trained further.
    assert abs(float(metrics(tmp_path / "kto")[0]["reward_margin"])) > 1e-3
    again = ["evaluation=quick", "trainer=cpu", f"run={tmp_path / 'kto'}"]
    again += [f"evaluation.{name}" for name in ("prompts=40", "reward_examples=16", "kl_prompts=4", "max_new_tokens=4")]
    judged = read_record(evaluate(composed(again, name="evaluate")))["metrics"]
    for name in ("reward_margin", "reward_desirable"):
        assert judged["rewards"][name]["value"] == pytest.approx(found["metrics"]["rewards"][name]["value"], abs=1e-4)
    assert judged["kl"]["value"] == pytest.approx(found["metrics"]["kl"]["value"], abs=1e-3)


def test_the_base_of_a_merged_adapter_is_no_reference(taught: Path, tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"reference=base .* was merged into it. Use model\.saved_adapter=keep"):
        trained(tmp_path / "kto", *LORA, *onto(taught), "reference=base")
    with pytest.raises(LabError, match=r"reference=base .* it came with none\. Use reference=initial"):
        trained(tmp_path / "kto", *LORA, "reference=base")


def test_all_weights_are_not_trained_under_a_kept_adapter(taught: Path, tmp_path: Path) -> None:
    with pytest.raises(LabError, match="adapter=none trains all weights"):
        trained(tmp_path / "kto", *onto(taught), "adapter=none", "model.saved_adapter=keep")


def test_another_base_under_an_adapter_is_another_run(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": str(tmp_path / "base")})
    )
    found = set()
    for text in ("one", "two"):
        (tmp_path / "base" / "model.safetensors").write_text(text)
        found.add(identify(composed([*RUN, *onto(tmp_path), f"run_dir={tmp_path}"])).run_id)
    assert len(found) == 2


def test_answers_are_collected_from_the_model_that_an_adapter_stands_for(taught: Path, tmp_path: Path) -> None:
    def collected(name: str, *words: str) -> bytes:
        file = tmp_path / f"{name}.parquet"
        settings = [
            "prompts=arithmetic",
            "sampling.samples=1",
            "sampling.worked_samples=0",
            "sampling.temperature=0.01",
        ]
        collect_feedback(composed([*settings, "trainer=cpu", f"output={file}", *words], name="collect"))
        return file.read_bytes()

    kept = collected("kept", *onto(taught), "model.saved_adapter=keep")
    assert collected("merged", *onto(taught)) == kept != collected("bare", "model=tiny")


def test_modules_that_the_model_has_not_are_named(tmp_path: Path) -> None:
    said = r"adapter\.target_modules names lm_haed, and LlamaForCausalLM has down_proj, .*lm_head"
    with pytest.raises(LabError, match=said):
        trained(tmp_path / "run", *LORA, "adapter.target_modules=[q_proj,lm_haed]")
    with pytest.raises(LabError, match=r"adapter\.target_modules is nowhere, .*has down_proj"):
        trained(tmp_path / "run", *LORA, "adapter.target_modules=nowhere")
    assert not (tmp_path / "run").exists()

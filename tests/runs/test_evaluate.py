import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from transformers import LlamaForCausalLM

from kto_lab.errors import LabError
from kto_lab.evaluation.evaluate import Judge, Measured
from kto_lab.feedback.prompts import arithmetic
from kto_lab.feedback.table import build_table
from kto_lab.models import load, tiny
from kto_lab.models.chat_template import CHATML
from kto_lab.runs.command import train
from kto_lab.runs.evaluate import evaluate
from kto_lab.runs.record import read_record
from kto_lab.sealed import read_json
from tests.damage import without_checksums
from tests.small_runs import composed

EVALUATION = ["evaluation=quick", "evaluation.max_new_tokens=6", "evaluation.prompts=12", "evaluation.kl_prompts=6"]
TRAINING = [
    "model=tiny",
    "model.weights=random",
    "trainer=cpu",
    "optimization.batch_size=8",
    "optimization.max_steps=4",
    "optimization.learning_rate=3e-3",
    "seed=3",
]
ADAPTERS = {
    "none": ["adapter=none"],
    "lora": ["adapter=lora", "adapter.rank=4", "adapter.dropout=0.1"],
    "merged": ["adapter=lora", "adapter.rank=4", "adapter.merge=true"],
}


@pytest.fixture(scope="session")
def feedback(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Sums with a right and a wrong answer each, and the overrides that read them."""
    rows = []
    for item in arithmetic(40, 20, seed=0):
        right = json.loads(item.checks)["answer"]
        for answer, label in ((right, True), (right + "0", False)):
            rows.append({"prompt": item.prompt, "completion": answer, "desirable": label, "checks": item.checks})
    file = tmp_path_factory.mktemp("feedback") / "sums.parquet"
    pq.write_table(build_table(rows, source="sums", held_out=0.4).data.table, file)
    return ["feedback=collected", f"feedback.path={file}"]


@pytest.fixture(scope="session")
def finished(feedback: list[str], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A finished run with an adapter, trained once."""
    runs: dict[str, Path] = {}

    def run(adapter: str) -> Path:
        if adapter not in runs:
            folder = tmp_path_factory.mktemp(adapter) / "run"
            words = [*TRAINING, *feedback, *ADAPTERS[adapter], *EVALUATION, f"run_dir={folder}"]
            runs[adapter] = train(composed(words))
        return runs[adapter]

    return run


@pytest.fixture
def run_folder(finished: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy of a finished run, to be spoilt."""
    ignored = shutil.ignore_patterns("again*")
    return Path(shutil.copytree(finished("none"), tmp_path / "run", ignore=ignored))


def again(*words: str) -> dict[str, Any]:
    return read_record(evaluate(composed(["trainer=cpu", *words], name="evaluate")))


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_with_the_settings_of_the_run_the_numbers_are_those_of_its_record(
    adapter: str, finished: Callable[[str], Path]
) -> None:
    folder = finished(adapter)
    record_file = (folder / "record.json").read_bytes()
    before = read_record(folder)
    found = again(f"run={folder}", *EVALUATION)
    assert found["metrics"] == before["metrics"]
    assert found["metrics"].keys() == {"answers", "groups", "rewards", "kl"}
    assert found["metrics"]["rewards"]["reward_margin"]["value"] != 0
    for key in ("run_id", "seeds", "data", "model", "training"):
        assert found[key] == before[key], key
    assert (folder / "record.json").read_bytes() == record_file
    for name in ("base", "trained"):
        kept, new = (json.loads((folder / "evaluation" / part / f"{name}.json").read_text()) for part in (".", "again"))
        assert kept == new


def test_a_merged_policy_gives_the_numbers_to_rounding(finished: Callable[[str], Path]) -> None:
    folder = finished("merged")
    assert not (folder / "policy" / "adapter_config.json").exists()
    found, before = again(f"run={folder}", *EVALUATION)["metrics"], read_record(folder)["metrics"]
    for name, estimate in before["rewards"].items():
        assert found["rewards"][name]["value"] == pytest.approx(estimate["value"], abs=1e-4), name
    assert found["kl"]["value"] == pytest.approx(before["kl"]["value"], abs=1e-3)
    assert found["answers"]["pass_rate"] == before["answers"]["pass_rate"]


def test_settings_of_the_command_line_replace_those_of_the_run(
    finished: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "more" / "found.json"
    words = ["evaluation=none", "evaluation.prompts=5", "evaluation.max_new_tokens=3", f"output={target}"]
    found = again(
        f"run={finished('none')}", *words, "evaluation.lm_eval=[kto_lab_neutral]", "evaluation.lm_eval_limit=4"
    )
    assert found["metrics"].keys() == {"answers", "groups", "lm_eval"}
    assert found["metrics"]["answers"]["answer_length"]["base"]["n"] == 5
    tasks = found["metrics"]["lm_eval"]
    assert tasks["base"]["kto_lab_neutral"]["bits_per_byte"]["n"] == 4
    assert tasks["base"] != tasks["trained"]
    assert found["config"]["evaluation"]["max_new_tokens"] == 3
    assert found["config"]["optimization"]["max_steps"] == 4
    assert read_json(target, "") == found
    assert (tmp_path / "more" / "found" / "trained.json").exists()
    assert "bits_per_byte" in capsys.readouterr().out


def test_a_model_alone_answers_as_in_the_run(
    finished: Callable[[str], Path], feedback: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = finished("none")
    model = ["model=hf", f"model.name={folder / 'policy'}"]
    words = ["evaluation.lm_eval=[kto_lab_checks]", f"output={tmp_path / 'alone.json'}"]
    found = again(*model, *feedback, *EVALUATION, *words)
    before = read_record(folder)["metrics"]["answers"]
    assert found["metrics"]["answers"] == {name: values["trained"] for name, values in before.items()}
    assert found["metrics"]["lm_eval"]["kto_lab_checks"]["pass_rate"]["value"] is not None
    assert found["model"]["name"] == "policy"
    assert (tmp_path / "alone" / "model.json").exists()
    assert "Held-out prompts: policy" in capsys.readouterr().out


@pytest.mark.parametrize("number_format", ["32-true", "bf16-mixed"])
def test_a_model_alone_is_judged_in_the_number_format_of_a_run(
    number_format: str, feedback: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load.tiny("random", seed=0)
    saved = tmp_path / "short"
    loaded.model.bfloat16().save_pretrained(str(saved))
    loaded.tokenizer.save_pretrained(saved)
    seen: list[LlamaForCausalLM] = []

    def measure(self: Judge, policy: LlamaForCausalLM, name: str) -> Measured:
        seen.append(policy)
        return Measured(answers=[], logps=[])

    monkeypatch.setattr(Judge, "measure", measure)
    words = ["model=hf", f"model.name={saved}", "model.dtype=bfloat16", f"trainer.precision={number_format}"]
    record = again(*words, *feedback, "evaluation=none", f"output={tmp_path / 'found.json'}")
    assert record["model"]["number_format"] == number_format
    # As a base in a run: sums between layers are float32, and products read bfloat16 in bf16-mixed alone.
    (policy,) = seen
    product = policy.model.layers[0].mlp.up_proj.weight
    assert product.dtype == (torch.float32 if number_format == "32-true" else torch.bfloat16)
    assert policy.model.embed_tokens(torch.tensor([1])).dtype == torch.float32


@pytest.mark.slow
def test_two_processes_find_what_one_does(finished: Callable[[str], Path], tmp_path: Path) -> None:
    folder, target = finished("none"), tmp_path / "two.json"
    words = [f"run={folder}", *EVALUATION, "trainer=ddp", "trainer.accelerator=cpu", f"output={target}"]
    assert evaluate(composed(words, name="evaluate")) == target
    assert read_record(target)["metrics"] == read_record(folder)["metrics"]


def test_where_a_model_alone_is_written_by_default(
    feedback: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["model=tiny", "model.weights=random", "evaluation=none", "evaluation.prompts=2"]
    target = evaluate(composed([*words, *feedback, "trainer=cpu"], name="evaluate"))
    assert target.parent == Path("runs/evaluations")
    assert target.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Say what to evaluate: run="),
        (["feedback=arithmetic"], "Say what to evaluate"),
        (["run=x", "model=tiny"], "Leave out run=..., or model"),
        (["run=does/not/exist"], "There is no folder does/not/exist"),
        (["run=x", "lengths.refused_by_template=drop"], "A run brings its own lengths"),
        (["+optimization.batch_size=3", "run=x"], "Nothing reads the configuration's optimization"),
        (["model=hf", "feedback=worked_sums"], r"Not set: model\.name"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(LabError, match=message):
        again(*words)


def test_an_unfinished_run_is_refused(run_folder: Path) -> None:
    (run_folder / "record.json").unlink()
    with pytest.raises(LabError, match="has not finished; run it again"):
        again(f"run={run_folder}")


def test_a_broken_model_is_named(run_folder: Path) -> None:
    weights = run_folder / "policy" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(LabError, match=r"model\.safetensors is damaged"):
        again(f"run={run_folder}", "evaluation=none")


@pytest.mark.parametrize("lost", ["policy", "config.yaml"])
def test_a_lost_policy_or_configuration_is_named(lost: str, run_folder: Path) -> None:
    (run_folder / lost).rename(run_folder / "elsewhere")
    with pytest.raises(LabError, match=f"{lost} is missing"):
        again(f"run={run_folder}")
    assert not (run_folder / "evaluation" / "again.json").exists()


def test_a_broken_adapter_is_named(finished: Callable[[str], Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished("lora"), tmp_path / "run"))
    weights = folder / "policy" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(LabError, match=r"adapter_model\.safetensors is damaged"):
        again(f"run={folder}", "evaluation=none")


def test_another_chat_template_than_the_runs_is_refused(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny, "CHATML", tiny.CHATML + " ")
    with pytest.raises(LabError, match="chat_template is not what"):
        again(f"run={run_folder}", "evaluation=none")


def test_a_wrong_value_in_the_folder_names_the_file_and_the_key(run_folder: Path) -> None:
    config = without_checksums(run_folder) / "config.yaml"
    wrong = {"max_steps: 4": "max_steps: many", "max_length: 512": "max_length: '512'", "seed: 3": "seed: 'no'"}
    text = config.read_text()
    for was, now in wrong.items():
        assert was in text
        text = text.replace(was, now, 1)
    config.write_text(text)
    with pytest.raises(LabError) as refused:
        again(f"run={run_folder}", "evaluation=none")
    said = str(refused.value)
    assert said.startswith(f"{config}: ") and said.endswith("Put it back as the run wrote it, or train again.")
    for key in ("optimization.max_steps is 'many'", "lengths.max_length is '512'", "seed is 'no'"):
        assert key in said


def test_examples_that_the_template_refuses_can_be_left_out_for_a_model_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    template = tmp_path / "no_system.jinja"
    refuses = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    template.write_text(refuses + CHATML)
    asks = [{"role": "user", "content": "Say hi."}]
    prompts = [asks, [{"role": "system", "content": "Be brief."}, *asks]]
    rows = [
        {"prompt": prompt, "completion": "Hi.", "desirable": up, "split": "test"}
        for prompt in prompts
        for up in (True, False)
    ]
    file = tmp_path / "chats.parquet"
    pq.write_table(build_table(rows, source="chats", held_out=0).data.table, file)
    words = ["model=tiny", "model.weights=random", f"model.chat_template={template}", "feedback=collected"]
    words += [f"feedback.path={file}", "evaluation=none", "evaluation.prompts=2", f"output={tmp_path / 'found.json'}"]
    with pytest.raises(LabError, match=r"no system turn.*lengths\.refused_by_template=drop"):
        again(*words)
    found = again(*words, "lengths.refused_by_template=drop")
    assert found["metrics"]["answers"]["answer_length"]["n"] == 1
    assert "2 held-out examples left out: the chat template refuses them" in capsys.readouterr().out


def test_feedback_that_has_changed_since_is_refused(run_folder: Path) -> None:
    config = without_checksums(run_folder) / "config.yaml"
    config.write_text(config.read_text().replace("train_prompts: null", "train_prompts: 5"))
    with pytest.raises(LabError, match="The feedback is not what"):
        again(f"run={run_folder}")

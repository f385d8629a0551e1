"""Thumbs whose prompts no program can check, as a product has them, through every command that a person starts with."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from transformers import LlamaConfig, LlamaForSequenceClassification

from kto_lab import cli
from kto_lab.errors import LabError
from kto_lab.judging.answer import Answer
from kto_lab.judging.reward import RewardModel
from kto_lab.models.tiny import byte_tokenizer, random_llama
from kto_lab.runs import train as run
from kto_lab.runs.command import train
from kto_lab.runs.evaluate import evaluate
from kto_lab.runs.loading import ModelSource
from kto_lab.runs.record import read_record
from tests.small_runs import composed, write_jsonl

# As on the command line of the guide, but for the model and what a run may cost.
SMALL = ["optimization.max_steps=2", "optimization.batch_size=4", "evaluation.prompts=4", "evaluation.kl_prompts=3"]
SMALL += ["evaluation.max_new_tokens=4", "evaluation.lm_eval_limit=2", "trainer=cpu"]


def chats(count: int = 24) -> list[dict[str, Any]]:
    """Chat messages with a thumb up and a thumb down each; a fifth of the prompts is held out by hash."""
    rows = []
    for number in range(count):
        prompt = [{"role": "user", "content": f"Tell me about {number}."}]
        for answer, label in ((f"It is {number}.", True), (f"No {number}.", False)):
            rows.append({"prompt": prompt, "completion": answer, "label": label})
    return rows


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small random chat model, `chat`, and thumbs on chat messages, `chat.jsonl`."""
    folder = tmp_path_factory.mktemp("home")
    tokenizer = byte_tokenizer()
    random_llama(vocabulary=len(tokenizer), hidden=32, layers=2, intermediate=64).save_pretrained(folder / "chat")
    tokenizer.save_pretrained(folder / "chat")
    write_jsonl(folder / "chat.jsonl", chats())
    return folder


def own(home: Path, *words: str) -> list[str]:
    model = ["model=hf", f"model.name={home / 'chat'}", f"reference_store.folder={home / 'store'}"]
    return [*model, *SMALL, *words]


@pytest.fixture(scope="module")
def judge(home: Path) -> Path:
    """A small random reward model in a folder."""
    tokenizer = byte_tokenizer()
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(LlamaConfig(vocab_size=len(tokenizer), **size, num_labels=1, pad_token_id=2))
    # The usual start is so small that all scores are alike.
    torch.nn.init.normal_(model.score.weight)
    for part in (model, tokenizer):
        part.save_pretrained(home / "judge")
    return home / "judge"


@pytest.fixture(scope="module")
def finished(home: Path) -> Path:
    words = ["feedback=file", f"feedback.path={home / 'chat.jsonl'}", f"run_dir={home / 'run'}"]
    return train(composed(own(home, *words)))


def test_a_run_on_them_ends_and_is_judged_by_what_there_is(finished: Path) -> None:
    found = read_record(finished)["metrics"]
    assert found.keys() == {"answers", "groups", "rewards", "kl", "lm_eval"}
    assert found["answers"].keys() == {"answer_length", "finished"}
    assert found["rewards"]["reward_auc"]["value"] is not None and found["kl"]["n"] == 3
    for policy in ("base", "trained"):
        assert found["lm_eval"][policy].keys() == {"kto_lab_neutral"}
        assert found["lm_eval"][policy]["kto_lab_neutral"]["bits_per_byte"]["n"] == 2


def test_answers_are_kept_beside_held_out_ones_and_their_thumbs(finished: Path) -> None:
    known = {repr(row["prompt"]): row["completion"] for row in chats() if row["label"]}
    for policy in ("base", "trained"):
        kept = json.loads((finished / "evaluation" / f"{policy}.json").read_text())["answers"]
        assert len(kept) == 4
        for answer in kept:
            assert answer["scores"] == {} and answer["desirable"] == known[repr(answer["prompt"])]
            assert answer["undesirable"] == answer["desirable"].replace("It is", "No")


def test_a_judge_scores_the_answers_before_and_after(home: Path, judge: Path, tmp_path: Path) -> None:
    words = ["feedback=file", f"feedback.path={home / 'chat.jsonl'}", f"run_dir={tmp_path / 'run'}"]
    words += ["judge@evaluation.judge=reward", f"evaluation.judge.model={judge}", "evaluation.lm_eval=[]"]
    folder = train(composed(own(home, *words, "optimization.learning_rate=1e-2")))
    record = read_record(folder)
    assert record["data"]["judge"]["name"] == "judge"
    found = record["metrics"]["answers"]["judge_score"]
    assert found["base"]["n"] == found["difference"]["n"] == 4 and found["difference"]["value"] != 0
    model = RewardModel(str(judge), None, None, "float32", "2024-07-26", None, None, None, "auto", 1024, 4096)
    for policy in ("base", "trained"):
        kept = json.loads((folder / "evaluation" / f"{policy}.json").read_text())["answers"]
        asked = [Answer(answer["prompt"], answer["answer"], "") for answer in kept]
        scores = model.scores(model.open(), asked, torch.device("cpu"))
        assert [answer["scores"]["judge_score"] for answer in kept] == pytest.approx(scores, abs=1e-5)
        assert found[policy]["value"] == pytest.approx(sum(scores) / 4, abs=1e-5)


def test_it_is_said_once_what_is_left_out(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["feedback=file", f"feedback.path={home / 'chat.jsonl'}", f"run_dir={tmp_path / 'run'}"]
    monkeypatch.setattr(run, "load_policy", refuse_to_load)
    with pytest.raises(LoadedError):
        train(composed(own(home, *words)))
    assert capsys.readouterr().out.count("lm-eval leaves out kto_lab_checks: no held-out prompt has checks.") == 1


class LoadedError(Exception):
    """A model was to be loaded."""


def refuse_to_load(*given: object, **named: object) -> None:
    raise LoadedError


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluation.lm_eval=[kto_lab_checks]"], "asks for kto_lab_checks, and no held-out prompt has checks"),
        (["judge@evaluation.judge=reward", "evaluation.judge.model=nowhere"], "nowhere"),
        (["judge@evaluation.judge=reward", "evaluation.judge.model=x", "evaluation.prompts=0"], "prompts is 0"),
        (["judge@evaluation.judge=reward", "evaluation.judge.model=x", "evaluation.judge.layout=y"], "judge.layout is"),
        (["evaluation.lm_eval=[nowhere.yaml]"], "the file nowhere.yaml, which is not there"),
        (["loss=dpo", "corruption=one_per_prompt"], "There are no pairs"),
        (["corruption=pair_swaps"], "exchanges pairs, and kto takes none"),
        (["optimization.batch_size=400"], "do not fill one batch"),
        (["corruption=label_noise", "corruption.rate=2"], "corruption.rate"),
    ],
)
def test_what_cannot_run_is_found_before_a_model_is_loaded(
    words: list[str], message: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "load_policy", refuse_to_load)
    feedback = ["feedback=file", f"feedback.path={home / 'chat.jsonl'}", f"run_dir={tmp_path / 'run'}"]
    with pytest.raises(Exception, match=message) as found:
        train(composed(own(home, *feedback, "optimization.max_steps=1", *words)))
    assert not isinstance(found.value, LoadedError)
    assert not (tmp_path / "run").exists()


def test_a_run_can_be_judged_again_and_refuses_checks_by_name(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = [word for word in SMALL if word.startswith("evaluation.")]
    target = evaluate(composed([f"run={finished}", "trainer=cpu", *small], name="evaluate"))
    assert read_record(target)["metrics"] == read_record(finished)["metrics"]
    monkeypatch.setattr(ModelSource, "load", refuse_to_load)
    with pytest.raises(LabError, match="asks for kto_lab_checks"):
        evaluate(composed([f"run={finished}", "evaluation.lm_eval=[kto_lab_checks]"], name="evaluate"))


def test_a_model_alone_is_asked_the_shipped_instructions_by_default(home: Path, tmp_path: Path) -> None:
    words = ["model=hf", f"model.name={home / 'chat'}", "trainer=cpu", "evaluation=none", "evaluation.prompts=3"]
    target = evaluate(
        composed([*words, "evaluation.max_new_tokens=2", f"output={tmp_path / 'out.json'}"], name="evaluate")
    )
    record = json.loads(target.read_text())
    assert record["config"]["feedback"]["path"] == "instruction_checks"
    assert record["metrics"]["answers"]["pass_rate"]["n"] == 3


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Runs a command line in this process."""

    def call(*words: str) -> None:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", ["kto-lab", *words])
        cli.main()

    yield call
    GlobalHydra.instance().clear()


def test_every_cell_of_the_study_of_own_thumbs_ends_and_its_report_shows_them(
    home: Path, command: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    feedback = ["feedback=file", f"feedback.path={home / 'chat.jsonl'}", f"runs_dir={home / 'runs'}"]
    command("sweep", "study=own_thumbs", *own(home, *feedback, "seed=0"))
    assert "3 of 3 cells are done" in capsys.readouterr().out
    command("report", "study=own_thumbs", f"runs_dir={home / 'runs'}")
    table = (home / "runs" / "studies" / "own_thumbs" / "tables" / "held_out.md").read_text()
    rows = [[cell.strip(" *") for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("|")]
    aucs = {cells[0]: float(cells[1].split()[0]) for cells in rows[2:]}
    assert aucs.keys() == {"kto", "bco", "sft"} and all(0 <= auc <= 1 for auc in aucs.values())


def test_a_sweep_that_asks_for_checks_by_name_is_refused_before_its_cells_also_as_a_dry_run(
    home: Path, tmp_path: Path, command: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    feedback = ["feedback=file", f"feedback.path={home / 'chat.jsonl'}", f"runs_dir={tmp_path / 'runs'}"]
    words = own(home, *feedback, "seed=0", "evaluation.lm_eval=[kto_lab_checks]")
    for flag in ([], ["--dry-run"]):
        with pytest.raises(SystemExit):
            command("sweep", "study=own_thumbs", *words, *flag)
        assert "asks for kto_lab_checks, and no held-out prompt has checks" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()

"""Wrong command lines: each ends in one error that names the key, with status 1, no traceback and no run folder."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kto_lab import cli
from tests.small_runs import thumbs, write_jsonl

TINY = "train scale=tiny"
FILE = f"{TINY} feedback=file feedback.path=thumbs.jsonl"
LORA = f"{TINY} adapter=lora"
OPEN = "feedback import output=out.parquet export=open_webui export.path=thumbs.jsonl"
TABLE = "feedback import output=out.parquet export=file export.path=thumbs.jsonl"
LABEL = "feedback label output=out.parquet answers.path=thumbs.jsonl labeler.path=example"
COLLECT = "feedback collect output=out.parquet model=tiny prompts=arithmetic"
AUDIT = "feedback audit feedback=arithmetic model=tiny"
INSPECT = "feedback inspect feedback=arithmetic"
REVIEW = "feedback review feedback.path=arithmetic output=out.parquet decisions=d.json"

# A command line without its wrong word, that word, and what the key may be or what is said instead.
WRONG = [
    # Words for false and true.
    (TINY, "loss.reference_point.clamp=no", "true or false"),
    (LORA, "adapter.merge=no", "true or false"),
    (TINY, "trainer.compile=no", "true or false"),
    (TINY, "trainer.deterministic=maybe", "true or false"),
    (f"{TINY} logger=wandb", "logger.offline=no", "true, false or null"),
    (TINY, "optimization.dropout=off", "true or false"),
    (TINY, "optimization.keep_prompts_together=1", "true or false"),
    (f"{TINY} optimizer=sgd", "optimizer.nesterov=yes", "true or false"),
    (f"{TINY} loss=bco", "loss.reference_point.by_class=no", "true or false"),
    (FILE, "feedback.as_chat=yes", "true or false"),
    (FILE, "feedback.day_first=no", "true, false or null"),
    ("cache", "prune.everything=yes", "true or false"),
    (OPEN, "export.signals.regenerated=no", "true, false or null"),
    (OPEN, "repeats.rows_in_order_of_time=no", "true or false"),
    ("check", "limits.logps=tight", "a number"),
    ("init", "folder=3", "a text"),
    ("init", "folder=thumbs.jsonl", "thumbs.jsonl"),
    # Options of a group.
    (TINY, "loss=3", "chosen by the name of an option"),
    (TINY, "schedule=null", "chosen by the name of an option"),
    ("train feedback=arithmetic", "model=true", "chosen by the name of an option"),
    # Numbers.
    (TINY, "seed=-1", "a whole number of at least 0"),
    (TINY, "seed=abc", "a whole number of at least 0"),
    (TINY, "seed=1.5", "a whole number of at least 0"),
    (TINY, "seed=null", "a whole number of at least 0"),
    (TINY, "seed=true", "a whole number of at least 0"),
    (TINY, "loss.beta=abc", "a number or null"),
    (TINY, "loss.beta=nan", "a number or null"),
    (TINY, "loss.beta=-1", "must be positive"),
    (TINY, "loss.value.loss_aversion=x", "a number"),
    (TINY, "loss.weighting.target=much", "a number"),
    (f"{TINY} loss=simpo", "loss.gamma=abc", "a number"),
    (f"{TINY} loss=rdpo", "loss.flip_rate=some", "a number, 'measured' or null"),
    (f"{TINY} loss=kto_robust", "loss.flip_rates.desirable=a", "a number"),
    (LORA, "adapter.rank=0", "a whole number of at least 1"),
    (LORA, "adapter.rank=1.5", "a whole number of at least 1"),
    (LORA, "adapter.alpha=0", "a whole number of at least 1"),
    (LORA, "adapter.dropout=2", "a number of at least 0 and below 1"),
    (TINY, "evaluation.reward_examples=abc", "a whole number of at least 0"),
    (TINY, "evaluation.prompts=-1", "a whole number of at least 0"),
    (TINY, "evaluation.lm_eval_limit=0.5", "a whole number of at least 1 or null"),
    (TINY, "evaluation.batch_tokens=0", "a whole number of at least 1"),
    (TINY, "optimization.batch_size=0", "a whole number of at least 1"),
    (TINY, "optimization.learning_rate=inf", "a number above 0"),
    (TINY, "optimization.epochs=0", "a number above 0"),
    (TINY, "optimization.max_steps=1e2", "a whole number of at least 1 or null"),
    (TINY, "lengths.max_length=long", "a whole number of at least 1"),
    (TINY, "lengths.max_length=8", "it must be larger than lengths.min_completion"),
    (TINY, "lengths.max_length=4096", "reads at most 2048"),
    (TINY, "trainer.devices=two", "a whole number of at least 1"),
    (TINY, "trainer.num_nodes=0", "a whole number of at least 1"),
    (TINY, "trainer.num_nodes=2", "nothing has started processes on other nodes"),
    (TINY, "schedule.warmup=abc", "a number"),
    (TINY, "schedule.steps=many", "a whole number"),
    (TINY, "optimizer.eps=x", "a number"),
    (TINY, "optimizer.betas=0.9", "a list of"),
    (TINY, "optimizer.betas=[0.9]", "a list of"),
    (TINY, "reference_store.max_mb=x", "a whole number"),
    (f"{TINY} corruption=label_noise", "corruption.rate=abc", "a number"),
    (f"{TINY} corruption=label_noise", "corruption.rate=2", "corruption.rate is 2"),
    (f"{TINY} corruption=label_noise", "corruption.seed=1.5", "a whole number"),
    ("train model=tiny", "model.seed=-1", "a whole number of at least 0"),
    (FILE, "feedback.held_out=abc", "a number"),
    (FILE, "feedback.held_out=1", "held-out share must be at least 0 and below 1"),
    (FILE, "feedback.up_from=four", "a number or null"),
    (FILE, "feedback.cut_at=x", "a whole number or null"),
    (FILE, "feedback.min_certainty=high", "a number or null"),
    (TABLE, "held_out=abc", "a number"),
    (TABLE, "max_characters=abc", "a whole number"),
    (TABLE, "duplicates.near_threshold=abc", "a number or null"),
    (TABLE, "recent_days=x", "a number"),
    (TABLE, "export.cut_at=x", "a whole number or null"),
    (LABEL, "labeler.seconds=x", "a number"),
    (LABEL, "limit_prompts=0", "a whole number of at least 1 or null"),
    (LABEL, "answers.held_out=abc", "a number"),
    (COLLECT, "held_out=abc", "a number"),
    (COLLECT, "sampling.samples=abc", "a whole number"),
    (AUDIT, "folds=1", "a whole number of at least 2"),
    (AUDIT, "top=abc", "a whole number of at least 0"),
    (AUDIT, "near_duplicates=abc", "a number or null"),
    (INSPECT, "seed=abc", "a whole number of at least 0"),
    (INSPECT, "deployment_ratio=abc", "a number or null"),
    ("cache", "prune.to_mb=abc", "a number or null"),
    ("cache", "prune.unused_days=-1", "it cannot be negative"),
    # One of a few words.
    (TINY, "trainer.accelerator=tpu", "'auto', 'cpu' or 'gpu'"),
    (TINY, "trainer.strategy=deepspeed", "'auto', 'ddp' or 'fsdp'"),
    (TINY, "trainer.precision=16", "'auto', '32-true' or 'bf16-mixed'"),
    (TINY, "lengths.overlong_prompt=cut", "'error' or 'drop'"),
    (TINY, "model.weights=best", "'arithmetic' or 'random'"),
    ("train model=hf model.name=x", "model.dtype=float8", "'float32', 'bfloat16' or 'float16'"),
    (FILE, "feedback.format=xml", "it must be null or one of"),
    (FILE, "feedback.bad_rows=keep", "'error' or 'drop'"),
    (TABLE, "group_by=day", "'model', 'signal', 'rater' or 'none'"),
    (TABLE, "repeats.one_rater=first", "'last', 'majority', 'all' or 'drop'"),
    (TABLE, "personal_data=hide", "'report', 'redact' or 'ignore'"),
    (LABEL, "given=yes", "'replace' or 'keep'"),
    (AUDIT, "split=validation", "'train', 'test' or 'all'"),
    (AUDIT, "signals=[guess]", "a list of values that are 'out_of_fold'"),
    (AUDIT, "exports=argilla", "a list of"),
    (REVIEW, "conflicts=first", "'majority', 'leave', 'drop' or 'error'"),
    # Texts and lists.
    (TINY, "run_dir=", "a text that is not empty"),
    (TINY, "run_dir=5", "As a text it is in quotes: run_dir=\"'5'\""),
    (TINY, "runs_dir=null", "a text that is not empty"),
    (TINY, "evaluation.lm_eval=kto_lab_checks", "a list of texts or 'auto'"),
    (TINY, "evaluation.metrics=my_metrics.ONE", "a list of texts"),
    (f"{TINY} evaluation.lm_eval=auto", "evaluation.lm_eval_fewshot=2", "have no worked examples to show"),
    (LORA, "adapter.target_modules=[]", "a text that is not empty or a list of texts that is not empty"),
    (LORA, "adapter.target_modules=[q_prj]", "Did you mean q_proj?"),
    (TINY, "feedback.path=5", "a text"),
    (TINY, "feedback.path=nowhere.parquet", "nowhere.parquet"),
    (FILE, "feedback.columns.label=3", "a text or null"),
    (FILE, "feedback.labels={good: maybe}", "true, false or null"),
    (FILE, "feedback.ignore=note", "a list of texts"),
    ("evaluate", "run=3", "a text that is not empty or null"),
    ("evaluate", "trust=my_losses", "a list of texts"),
    ("publish run=nowhere to=hub", "private=no", "true or false"),
    ("publish run=nowhere to=published", "license=3", "a text"),
    (f"{TINY} logger=wandb", "logger.artifacts=everything", "'none', 'policy', 'report' or 'all'"),
    ("evaluate run=nowhere", "evaluation.prompts=abc", "a whole number of at least 0"),
    ("report", "folder=1", "a text that is not empty or null"),
    ("report folder=nowhere", "publish=2", "a text that is not empty or null"),
    (REVIEW, "decisions=3", "a text or a list of texts"),
    (COLLECT, "output=", "a text that is not empty"),
    ("feedback export feedback=arithmetic", "output=", "a text that is not empty"),
    # Nodes.
    (TINY, "loss.value=abc", "a node with a _target_"),
    (TINY, "optimization=3", "optimization"),
    (TINY, "optimizer._target_=torch.optim.Adamm", "cannot be imported"),
    (TINY, "loss.function=kto_lab.losses.ktoo", "cannot be imported"),
]


def table() -> list[tuple[str, str, str]]:
    """The rows, each wrong word in the place of the word that sets its key rightly."""
    rows = []
    for words, wrong, said in WRONG:
        key = wrong.partition("=")[0]
        rows.append((" ".join(word for word in words.split() if word.partition("=")[0] != key), wrong, said))
    return rows


def fails(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command line in this process; it must end with 1, and what it says on standard error is returned."""
    name = next(name for name in cli.COMMANDS if words[: len(name.split())] == name.split())
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(sys, "argv", ["kto-lab", *words])
    for variable in ("SLURM_NTASKS", "TORCHELASTIC_RUN_ID", "NODE_RANK"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(SystemExit) as stopped:
        cli.run(name, words[len(name.split()) :])
    said = capsys.readouterr().err
    assert stopped.value.code in (1, 2), said
    assert "Traceback" not in said and said.count("error:") == 1, said
    return said.partition("error:")[2]


@pytest.mark.parametrize(("words", "wrong", "said"), table(), ids=lambda value: value.split("/")[-1])
def test_a_wrong_command_line_is_one_error_that_names_the_key(
    words: str,
    wrong: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KTO_LAB_CACHE", str(tmp_path / "cache"))
    write_jsonl(tmp_path / "thumbs.jsonl", thumbs(4))
    message = fails([*words.split(), wrong], monkeypatch, capsys)
    assert said in message, message
    assert wrong.partition("=")[0] in message, message
    written = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    assert not {path for path in written if path.parts[0] not in ("thumbs.jsonl", "cache")}, written


def test_all_wrong_values_are_said_at_once_each_on_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["adapter.rank=0", "adapter.merge=no", "loss.beta=abc", "optimizer.betas=3", "schedule.warmup=x"]
    lines = fails([*LORA.split(), *words], monkeypatch, capsys).strip().splitlines()
    assert [line.split(" is ")[0] for line in lines] == [word.partition("=")[0] for word in words]


def test_the_matrix_has_every_command_that_takes_values(record_property: Callable[[str, object], None]) -> None:
    """`sweep` has a test of its own: what its cells are told is checked where they are composed."""
    record_property("tried", 0)
    named = {name for name in cli.COMMANDS for words, _, _ in WRONG if f"{words} ".startswith(f"{name} ")}
    assert named >= set(cli.COMMANDS) - {"sweep"} and len(WRONG) >= 80

"""Every command line of the documents is run: whole with small stand-ins, or as far as nothing long or far begins.

A command that no rule here knows fails, so that none is added without being run.
"""

import argparse
import gzip
import json
import os
import re
import runpy
import shlex
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from kto_lab import cli
from kto_lab.configuration import check_keys
from kto_lab.feedback.layout import layout
from kto_lab.feedback.mapping import table_rows
from kto_lab.feedback.rows import in_blocks
from kto_lab.feedback.table import build_table
from kto_lab.keys import OF_COMMAND
from kto_lab.models.tiny import byte_tokenizer, random_llama
from kto_lab.runs.components import assemble
from tests.documented import ROOT, commands, run_command
from tests.small_runs import write_jsonl

EXPORTS = Path(__file__).parent / "importing" / "exports" / "fixtures"
COMMANDS = commands()

# What is not run here, by how the command begins, and who runs it or why nobody can.
ELSEWHERE = {
    "PYTHONPATH=. ": "tests/test_docs.py and tests/test_contributing.py paste worked examples and run them",
    "make ": "test_make_knows_the_target",
    "python -m kto_lab": "tests/test_first_line.py starts it so",
    "python scripts/": "test_a_script_takes_the_words",
    "lm-eval run ": "test_lm_eval_by_itself_gives_the_numbers_of_the_record",
    "python -m venv ": "`make` sets up its environment so, in CI, too",
    "pip install ": "needs an index; CI's `make` installs the same extras under the same constraints",
    "wandb sync": "needs a server and an account",
    "sbatch ": "tests/slurm preempts its jobs with it",
    "scontrol show": "asks a cluster of one's own",
    "pytest -m slow tests/slurm": "is the tests of a real Slurm; CI runs them with the other slow ones",
    'eval "$(bash scripts/slurm_one_node.sh': "tests/slurm starts its cluster with it",
    "bash scripts/slurm_one_node.sh": "tests/slurm starts and stops its cluster with it",
    'eval "$(kto-lab -sc': "tests/test_completion.py drives it in a real bash",
    "kto-lab -sc ": "tests/test_completion.py",
    "bash scripts/build_tiny.sh": "takes an hour; it is two commands of kto-lab",
}
OURS = [command for command in COMMANDS if command.startswith("kto-lab ") and not command.startswith(tuple(ELSEWHERE))]
# Words of commands of ours that cannot be run here, and why. Their configuration is composed and checked all the same.
COMPOSED = {
    "to=hub": "needs a hub: tests/test_hub.py",
    "feedback.name=owner/data": "the same",
    "logger=trackio": "needs Trackio: tests/training/test_local_loggers.py",
    "feedback=movie_ratings": "fetches the ratings from the registry: tests/test_smollm2.py",
    "scale=paper": "needs the hub and a GPU; scripts/write_size_docs.py plans what it needs in memory",
    "trainer=ddp": "two processes: tests/training/test_distributed.py",
    "trainer=fsdp": "two processes: tests/training/test_distributed.py",
    "signals=[out_of_fold,training,raters,contradiction]": "trains a policy a fold: tests/auditing/test_training.py",
    "feedback.path=runs/sums/thumbs.parquet": "the second and third of four commands: tests/test_own_thumbs.py",
    "study=own_thumbs": "the last of them",
    "labeler.model.source=registry": "asks SmolLM2 for minutes: tests/labeling/test_constitution.py",
    "answers.path=runs/label_quality/held_out.parquet": "what scripts/label_quality.py has trained first",
    "model.source=registry": "an hour of SmolLM2's answers: tests/feedback/test_collect.py",
}
# Commands whose words are a choice, as a reader would make it.
CHOSEN = {
    "kto-lab feedback import output=thumbs.parquet ...": "export.path=feedback-history-export.json",
    "kto-lab feedback label output=labels.parquet ...": "answers.path=answers.jsonl labeler.path=rules.yaml",
    "kto-lab feedback review decisions=decisions.json ...": "feedback.path=thumbs.parquet output=reviewed.parquet",
}
NAMES = {
    "EXPORT": "feedback-history-export.json",
    "<name>": "loss_aversion",
    "NAME": "loss_aversion",
    "PATH": "chat_model",
    "PATH_OR_HUB_NAME": "chat_model",
}
# What makes a run small; keys that a command sets itself are left to it.
SMALL = {
    "trainer": "cpu",
    "lengths.max_length": "1024",
    "optimization.batch_size": "4",
    "optimization.max_steps": "2",
    "evaluation.prompts": "2",
    "evaluation.max_new_tokens": "4",
    "evaluation.reward_examples": "8",
    "evaluation.kl_prompts": "2",
    "evaluation.lm_eval_limit": "2",
}
TINY = {"model": "hf", "model.name": "chat_model"}
RULES = (
    "rules:\n  - {name: sum, thumb: up, when: {keywords: '7'}}\n  - {name: other, thumb: down, when: {regex: '.'}}\n"
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader of the documents has: a chat model, thumbs in all forms, exports, and a finished run."""
    folder = tmp_path_factory.mktemp("reader")
    tokenizer = byte_tokenizer()
    model = random_llama(vocabulary=len(tokenizer), hidden=32, layers=2, intermediate=64)
    model.save_pretrained(folder / "chat_model")
    tokenizer.save_pretrained(folder / "chat_model")
    rows = [
        {"prompt": [{"role": "user", "content": f"What is {n} + 4?"}], "completion": str(n + off), "label": off == 4}
        for n in range(24)
        for off in (4, 5)
    ]
    write_jsonl(folder / "thumbs.jsonl", rows)
    write_jsonl(folder / "answers.jsonl", [{key: row[key] for key in ("prompt", "completion")} for row in rows])
    (folder / "shards").mkdir()
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (folder / "shards" / "part-0.jsonl.gz").write_bytes(gzip.compress(lines))
    write_jsonl(folder / "may.jsonl", rows)
    cells = pd.DataFrame([{**row, "prompt": json.dumps(row["prompt"])} for row in rows])
    cells.to_csv(folder / "june.csv", index=False)
    cells.assign(completion=cells["completion"] + " ß").to_csv(folder / "excel.csv", index=False, encoding="cp1252")
    columns = {"prompt": "prompt", "completion": "completion", "label": "label"}
    placed = [(f"row {number}", row) for number, row in enumerate(rows)]
    table = build_table(table_rows(in_blocks(placed), layout(columns), source="thumbs"), source="thumbs", held_out=0.25)
    for name in ("thumbs", "reviewed", "a", "b"):
        pq.write_table(table.with_format("arrow")[:], folder / f"{name}.parquet")
    (folder / "rules.yaml").write_text(RULES)
    shutil.copy(EXPORTS / "open_webui.json", folder / "feedback-history-export.json")
    for part in ("scores", "observations"):
        shutil.copy(EXPORTS / f"langfuse_{part}.jsonl", folder / f"{part}.jsonl")
    return folder


@pytest.fixture
def reader(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one command's own, with what the reader has and the checkout's files."""
    for path in (*shared.iterdir(), ROOT / "kto_lab", ROOT / "scripts"):
        (tmp_path / path.name).symlink_to(path)
    # What is published goes into the reader's own folder.
    (tmp_path / "results").mkdir()
    for path in (ROOT / "results").iterdir():
        (tmp_path / "results" / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    with sqlite3.connect(tmp_path / "thumbs.db") as database:
        database.execute("CREATE TABLE thumbs (prompt, completion, label)")
        database.execute("INSERT INTO thumbs VALUES ('What is 2 + 4?', '6', 1), ('What is 2 + 4?', '7', 0)")
    # Where W&B keeps tables until they are sent.
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "wandb_data"))
    monkeypatch.setenv("THUMBS_URL", f"sqlite:///{tmp_path / 'thumbs.db'}")
    return tmp_path


def words_of(command: str) -> tuple[str, list[str]]:
    """The name of our command, and the words that follow it as a reader would write them."""
    command = f"{command.removesuffix(' ...')} {CHOSEN[command]}" if command in CHOSEN else command
    words = [
        re.sub(r"<name>|\b(?:EXPORT|NAME|PATH_OR_HUB_NAME|PATH)\b", lambda found: NAMES[found[0]], word)
        for word in shlex.split(command)
    ]
    name = next(name for name in cli.COMMANDS if words[1 : len(name.split()) + 1] == name.split())
    return name, words[len(name.split()) + 1 :]


def with_stand_ins(name: str, words: list[str]) -> list[str]:
    """The words, and what makes their command small."""
    given = {word.partition("=")[0] for word in words}
    more = {}
    if name == "train":
        more = SMALL | ({} if given & {"model", "scale"} else TINY)
    elif name == "evaluate":
        more = {key: value for key, value in SMALL.items() if key == "trainer" or key.startswith("evaluation")}
    elif name == "feedback collect":
        more = TINY | {
            "trainer": "cpu",
            "sampling.max_new_tokens": "2",
            "sampling.samples": "1",
            "sampling.worked_samples": "0",
        }
    elif "labeler=constitution" in words:
        judge = {"model@labeler.model": "hf", "labeler.model.name": "chat_model"}
        more = judge | {"labeler.examples": "2", "limit_prompts": "4", "trainer": "cpu"}
    return [*words, *(f"{key}={value}" for key, value in more.items() if key not in given)]


def run(name: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command of ours in this process, to its end."""
    run_command([*name.split(), *words], monkeypatch)


def check(name: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command of ours as far as it reads no model and no data: its keys are known, its values fit."""
    made = []

    def load(function: str) -> Callable[[DictConfig], None]:
        def make(cfg: DictConfig) -> None:
            # What a study interpolates is of its cells' configuration.
            own = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "study"])
            assert isinstance(own, DictConfig)
            check_keys(own, OF_COMMAND[cli.COMMANDS[name].config])
            made.append(assemble(own) if name == "train" else OmegaConf.to_container(own, resolve=True))

        return make

    on_a_cpu = ["trainer.accelerator=cpu"] if "scale=paper" in words else []
    with monkeypatch.context() as patch:
        patch.setattr(cli, "_load", load)
        run(name, [*words, *on_a_cpu], monkeypatch)
    assert len(made) == 1


def prepare(name: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Do what comes before a command: the run to judge, the study to report, the audit to review."""
    given = dict(word.partition("=")[::2] for word in words)
    # What a command writes is not there before; what it reads is.
    for key in ("output", "publish"):
        Path(given.get(key, "none")).unlink(missing_ok=True)
    if "from" in given:
        table = Path(given["from"].replace(".import_report.json", ".parquet"))
        table.unlink(missing_ok=True)
        run(name, ["path=feedback-history-export.json", f"output={table}"], monkeypatch)
    if name in ("evaluate", "publish") and "run" in given:
        run("train", with_stand_ins("train", [f"run_dir={given['run']}"]), monkeypatch)
    if given.get("model.name", "").startswith("runs/sft"):
        run("train", with_stand_ins("train", ["loss=sft", "adapter=lora", "run_dir=runs/sft"]), monkeypatch)
    if name == "report" and "study" in given:
        folder = Path("runs/studies") / given["study"]
        shutil.copytree(ROOT / "results" / given["study"], folder)
    if name == "feedback review":
        run(
            "feedback audit",
            ["feedback=collected", f"feedback.path={given['feedback.path']}", "output=audit"],
            monkeypatch,
        )
        (first, *_) = pq.read_table("audit/suspects.parquet").to_pylist()
        page = Path("audit/review.html").read_text(encoding="utf-8")
        decisions(page, first["example_id"], first["desirable"])


def decisions(page: str, example: str, thumb: bool) -> None:
    """What the page of an audit downloads after one decision."""
    from kto_lab.auditing.exchange import FORMAT, VERSION

    made = {
        "format": FORMAT,
        "version": VERSION,
        "reviewer": "Ada",
        "decisions": [{"example_id": example, "decision": "flip", "desirable": thumb}],
    }
    Path("decisions.json").write_text(json.dumps(made))


def test_every_command_is_run_by_somebody() -> None:
    assert len(COMMANDS) > 100
    unknown = [command for command in COMMANDS if command not in OURS and not command.startswith(tuple(ELSEWHERE))]
    assert not unknown, f"no test runs {unknown}"
    assert all(any(command.startswith(prefix) for command in COMMANDS) for prefix in ELSEWHERE)
    assert set(CHOSEN) <= set(COMMANDS)
    assert all(any(word in shlex.split(command) for command in OURS) for word in COMPOSED)


@pytest.mark.parametrize("command", OURS)
def test_a_command_of_ours_does_what_it_says(command: str, reader: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = [*cli.COMMANDS, "feedback"]
    if command.partition(" ")[2] in named and command not in ("kto-lab train", "kto-lab cache"):
        return  # a sentence names the command
    name, words = words_of(command)
    composed_alone = any(word in COMPOSED for word in words)
    of_the_page_of_losses = COMMANDS[command] == ["docs/losses.md"]  # tests/test_every_option.py trains with each
    if name == "sweep":
        run(name, [*words, *([] if "--dry-run" in words else ["--dry-run"])], monkeypatch)
        return
    if composed_alone or of_the_page_of_losses:
        check(name, words, monkeypatch)
        return
    prepare(name, words, monkeypatch)
    run(name, with_stand_ins(name, words), monkeypatch)


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("make ")])
def test_make_knows_the_target(command: str) -> None:
    done = subprocess.run([*shlex.split(command), "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


class ParsedError(Exception):
    """The words of a script were understood."""


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("python scripts/")])
def test_a_script_takes_the_words(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, script, *words = shlex.split(command)
    assert (ROOT / script).is_file()
    text = (ROOT / script).read_text(encoding="utf-8")
    if "argparse" not in text:
        assert not words or "main(sys.argv[1:])" in text
        return
    understand = argparse.ArgumentParser.parse_args

    def parse(self: argparse.ArgumentParser, given: list[str] | None = None, space: None = None) -> None:
        understand(self, given, space)
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    choice = {"PART": "tables", "KEY=VALUE": "trainer.compile=true"}
    monkeypatch.setattr(sys, "argv", [script, *(choice.get(word, word) for word in words)])
    monkeypatch.setattr(sys, "path", [str(ROOT / "scripts"), *sys.path])
    with pytest.raises(ParsedError):
        runpy.run_path(str(ROOT / script), run_name="__main__")


@pytest.mark.slow
def test_lm_eval_by_itself_gives_the_numbers_of_the_record(reader: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("train", with_stand_ins("train", ["run_dir=runs/mine"]), monkeypatch)
    (command,) = [command for command in COMMANDS if command.startswith("lm-eval run")]
    environment = os.environ | {"HF_DATASETS_CACHE": str(reader / "cache"), "PYTHONPATH": str(ROOT)}
    words = [*shlex.split(command)[1:], "--device", "cpu", "--output_path", "out"]
    done = subprocess.run([sys.executable, "-m", "lm_eval", *words], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (file,) = reader.glob("out/*/results_*.json")
    theirs = json.loads(file.read_text())["results"]["kto_lab_checks"]
    ours = json.loads((reader / "runs/mine/record.json").read_text())["metrics"]["lm_eval"]["trained"]["kto_lab_checks"]
    for metric, estimate in ours.items():
        assert theirs[f"{metric},none"] == pytest.approx(estimate["value"], rel=1e-6), metric


@pytest.fixture(autouse=True)
def no_hydra_left() -> Iterator[None]:
    yield
    GlobalHydra.instance().clear()

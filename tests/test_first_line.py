"""What a command says at once, and what it does not import: it is silent for no longer than it must be."""

import subprocess
import sys
from pathlib import Path

import pytest

from kto_lab import cli
from tests.small_runs import overrides, thumbs, write_jsonl

# What takes long to import. The first line comes before any of it.
HEAVY = ("torch", "lightning", "transformers", "datasets", "peft", "wandb", "lm_eval", "pandas", "matplotlib")
# What a run with the default options has no use for: adapters, Weights & Biases, lm-eval's harness, classifiers.
UNUSED = ("peft", "wandb", "lm_eval", "sklearn", "nltk", "sqlalchemy", "cleanlab")
AT_THE_FIRST_WRITE = f"""
import sys

class Watching:
    def __init__(self, inner):
        self.inner = inner

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def write(self, text):
        sys.stdout = self.inner
        print("imported", *[name for name in {HEAVY!r} if name in sys.modules])
        print(text, end="", flush=True)
        raise SystemExit(0)

from kto_lab.cli import main
sys.stdout = Watching(sys.stdout)
main()
"""
WORDS = {
    "report": ["study=label_noise"],
    "sweep": ["study=label_noise", "scale=tiny"],
    "evaluate": ["run=runs/mine"],
    "feedback review": ["decisions=none.json", "output=out.parquet"],
}


def first_line(name: str, words: list[str], folder: Path) -> list[str]:
    """What is imported before the first line of a command, and that line."""
    line = [sys.executable, "-c", AT_THE_FIRST_WRITE, *name.split(), *words]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_first_line_comes_before_what_takes_long_to_import(name: str, tmp_path: Path) -> None:
    more = ["output=out.parquet"] if name.startswith("feedback ") and name not in WORDS else []
    imported, said = first_line(name, WORDS.get(name, more), tmp_path)
    assert imported == "imported"
    assert said.startswith(f"kto-lab {name}")


def test_the_first_line_says_what_is_run_and_where(tmp_path: Path) -> None:
    _, said = first_line("train", ["loss=dpo", "scale=tiny", "run_dir=runs/mine"], tmp_path)
    assert said == "kto-lab train: loss=dpo model=tiny feedback=arithmetic; run folder runs/mine"
    _, said = first_line("evaluate", ["run=runs/mine"], tmp_path)
    assert said == "kto-lab evaluate: run folder runs/mine"


def test_a_run_does_not_import_what_its_options_have_no_use_for(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "thumbs.jsonl", thumbs())
    small = overrides(tmp_path, "optimization.max_steps=1", "evaluation=quick", "evaluation.prompts=2")
    code = [
        "import sys",
        "from kto_lab.cli import main",
        f"sys.argv = ['kto-lab', 'train', *{small!r}]",
        "main()",
        f"print('imported', *[name for name in {UNUSED!r} if name in sys.modules])",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(code)], capture_output=True, text=True, timeout=300, cwd=tmp_path
    )
    assert (tmp_path / "run" / "record.json").exists(), done.stderr
    assert done.stdout.splitlines()[-1] == "imported"


def test_the_package_is_the_command(tmp_path: Path) -> None:
    def said(*words: str) -> tuple[int, str, str]:
        line = [sys.executable, *words]
        done = subprocess.run(line, capture_output=True, text=True, timeout=120, cwd=tmp_path)
        return done.returncode, done.stdout, done.stderr

    script = "import sys; from kto_lab.cli import main; sys.argv[0] = 'kto-lab'; main()"
    for words in (["--version"], ["train", "--cfg", "job"], ["trian"], ["train", "sead=1"]):
        assert said("-m", "kto_lab", *words) == said("-c", script, *words)

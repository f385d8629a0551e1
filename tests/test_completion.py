"""Completion as shells ask for it: by Hydra's scripts, in a real bash, and in zsh and fish where they are installed."""

import os
import pty
import select
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kto_lab import cli
from tests.small_runs import options

INSTALL = {
    "bash": 'eval "$(kto-lab -sc install=bash)"',
    "zsh": 'autoload -Uz compinit bashcompinit && compinit -u && bashcompinit && eval "$(kto-lab -sc install=bash)"',
    "fish": "kto-lab -sc install=fish | source",
}
# Without the person's own settings.
SHELLS = {"bash": ["--norc", "--noprofile", "-i"], "zsh": ["-f", "-i"], "fish": ["--no-config", "-i"]}


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PATH that begins with a folder that has `kto-lab`."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "kto-lab").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m kto_lab "$@"\n')
    (folder / "kto-lab").chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def in_bash(lines: list[str], programs: str, cwd: Path) -> list[list[str]]:
    """What bash's completion function answers to each line, with the cursor at its end."""
    asked = [INSTALL["bash"]]
    for line in lines:
        words = line.split() + ([""] if line.endswith(" ") else [])
        asked += [
            f"COMP_LINE={shlex.quote(line)} COMP_POINT={len(line)} COMP_CWORD={len(words) - 1}",
            f"COMP_WORDS=({' '.join(map(shlex.quote, words))}) COMPREPLY=()",
            'hydra_bash_completion kto-lab "" ""',
            'echo "<${COMPREPLY[@]}>"',
        ]
    done = subprocess.run(
        ["bash", "-c", "\n".join(asked)],
        capture_output=True,
        text=True,
        timeout=200,
        cwd=cwd,
        env={**os.environ, "PATH": programs},
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    return [line[1:-1].split() for line in done.stdout.splitlines()]


def test_bash_is_answered(programs: str, tmp_path: Path) -> None:
    asked = {
        "kto-lab feedback i": ["import", "inspect"],
        "kto-lab train value@loss.value=p": ["value@loss.value=power"],
        "kto-lab train adapter=lora adapter.r": ["adapter.rank="],
        "kto-lab report study=cl": ["study=class_imbalance"],
        "kto-lab train loss=[ optimi": [],
    }
    assert dict(zip(asked, in_bash(list(asked), programs, tmp_path), strict=True)) == asked
    assert not list(tmp_path.iterdir()), "a report of a crash, or a file of Hydra's"


LINES = [
    ("kto-lab ", sorted({name.split()[0] for name in cli.COMMANDS})),
    ("kto-lab tr", ["train"]),
    ("kto-lab feedback i", ["import", "inspect"]),
    ("kto-lab nonsense lo", []),
    ("kto-lab train loss=k", [f"loss={name}" for name in options("loss") if name.startswith("k")]),
    ("kto-lab train lo", ["logger.", "logger=", "loss.", "loss="]),
    ("kto-lab train val", ["value@loss.value="]),
    ("kto-lab train stu", []),
    ("kto-lab sweep stu", ["study="]),
    ("kto-lab feedback audit spl", ["split="]),
    ("kto-lab train loss=sft loss.ref", []),
    ("kto-lab train --config-dir own loss=mi", ["loss=mine"]),
    ("kto-lab train --c", ["--cfg", "--config-dir"]),
    ("kto-lab sweep --d", ["--dry-run"]),
    ("kto-lab train ' lo", []),
]


@pytest.mark.parametrize(
    ("shell", "line", "candidates"),
    [("bash", *one) for one in LINES] + [(shell, *LINES[4]) for shell in ("zsh", "fish")],
)
def test_each_command_completes_with_its_own_configuration(
    shell: str,
    line: str,
    candidates: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "own" / "loss").mkdir(parents=True)
    (tmp_path / "own" / "loss" / "mine.yaml").write_text("# My loss.\n_target_: kto_lab.losses.build\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMP_LINE", line + " and what follows the cursor" if shell == "bash" else line)
    monkeypatch.setenv("COMP_POINT", str(len(line)) if shell == "bash" else "")
    monkeypatch.setattr(sys, "argv", ["kto-lab", "-sc", f"query={shell}"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    cli.main()
    said = capsys.readouterr()
    assert said.out.split() == candidates and not said.err
    assert ("\n" in said.out.rstrip()) == (shell == "fish" and len(candidates) > 1)


@pytest.mark.parametrize("shell", SHELLS)
def test_the_documented_line_makes_tab_complete(shell: str, programs: str, tmp_path: Path) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(tmp_path)
        os.environ |= {"PATH": programs, "HOME": str(tmp_path), "TERM": "xterm"}
        os.execv(program, [shell, *SHELLS[shell]])
    try:
        os.write(terminal, f"{INSTALL[shell]}; echo rea''dy\n".encode())
        said = until(terminal, b"ready")
        # From the name of the command to the end of an option.
        os.write(terminal, b"kto-lab sweep study=class_i\t")
        assert b"study=class_imbalance" in until(terminal, b"mbalance"), said
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(terminal)


def until(terminal: int, wanted: bytes, seconds: float = 60) -> bytes:
    """What a terminal shows, up to what is wanted."""
    said = b""
    while wanted not in said and select.select([terminal], [], [], seconds)[0]:
        said += os.read(terminal, 65536)
    return said


def test_another_question_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["kto-lab", "-sc", "install=tcsh"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 1
    assert "-sc install=bash|zsh|fish" in capsys.readouterr().err

"""The command lines that the documents show, and the places where each stands."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
import pytest
from hydra.core.global_hydra import GlobalHydra

from kto_lab import cli

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = "kto-lab|make|python|pip|lm-eval|wandb|sbatch|scontrol|bash|eval|pytest"
# As a line of code, or within a sentence.
LINE = re.compile(rf"^(?:\w+=\S+ )*(?:{PROGRAMS}) \S")
INLINE = re.compile(rf"`((?:{PROGRAMS})\s[^`]+)`")
# In a comment of conf/, where a command has no marks.
COMMENTED = re.compile(r"kto-lab [a-z]+(?: [a-z]+)?(?: \S+=\S+)+")
FENCE = re.compile(r"^```", re.MULTILINE)


def documents() -> dict[str, str]:
    """Every document that shows commands: its name and its Markdown."""
    found = [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("results/**/*.md"),
        *ROOT.glob("kto_lab/**/*.md"),
    ]
    texts = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in found}
    for path in ROOT.glob("notebooks/*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        texts[str(path.relative_to(ROOT))] = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    for path in ROOT.glob("conf/**/*.yaml"):
        comments = "\n".join(re.findall(r"(?:^|\s)# (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE))
        texts[str(path.relative_to(ROOT))] = COMMENTED.sub(lambda command: f"`{command[0]}`", comments)
    for path in (path for kind in ("py", "sh") for path in ROOT.glob(f"scripts/*.{kind}")):
        # What stands above the first import, or at the start of a script of the shell, says how it is called.
        head = re.split(r"^(?:import|from|set) ", path.read_text(encoding="utf-8"), maxsplit=1, flags=re.MULTILINE)[0]
        texts[str(path.relative_to(ROOT))] = (
            "```\n" + re.sub(r"^(?:# ?| +|\"\"\")", "", head, flags=re.MULTILINE) + "\n```"
        )
    return texts


def commands() -> dict[str, list[str]]:
    """Each command that is shown, without its comment, and the documents that show it."""
    found: dict[str, list[str]] = {}
    for name, text in documents().items():
        for command in _commands_of(text):
            found.setdefault(command, []).append(name)
    return found


def _commands_of(text: str) -> list[str]:
    lines = re.sub(r"\s*\\\n\s*", " ", text).splitlines()
    fenced, found, sentences = False, [], []
    for line in lines:
        if line.startswith("```"):
            fenced = not fenced
        elif (fenced or line.startswith("    ")) and LINE.match(line.strip()):
            found.append(re.sub(r"\s+#\s.*$", "", line.strip()))
        elif not fenced:
            sentences.append(line)
    # In a sentence a command may go on in the next line.
    return found + [" ".join(command.split()) for command in INLINE.findall("\n".join(sentences))]


def run_command(words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run `kto-lab` with these words in this process, to its end."""
    GlobalHydra.instance().clear()
    monkeypatch.setattr(sys, "argv", ["kto-lab", *words])
    try:
        cli.main()
    except SystemExit as stopped:
        assert not stopped.code, f"kto-lab {' '.join(words)} ended with {stopped.code}"

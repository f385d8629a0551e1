"""Worked examples of the documents, as a reader would paste them: files into a folder, and commands into a shell."""

import os
import re
import subprocess
import sys
from pathlib import Path


def paste_files(page: str, folder: Path) -> list[str]:
    """Write the files that a page shows, each under its name, into a folder; returns their names in order."""
    files = re.findall(r"`([\w./]+)`:\n\n```(?:python|yaml|csv)\n(.*?)^```$", page, re.M | re.S)
    for name, text in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return [name for name, _ in files]


def shell_lines(page: str) -> list[str]:
    """The commands that a page shows in blocks of shell, one per line."""
    return [line for block in re.findall(r"^```sh\n(.*?)^```$", page, re.M | re.S) for line in block.splitlines()]


def paste(line: str, folder: Path) -> str:
    """Run a command as a person would, in the environment of these tests, and return what it prints."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["sh", "-c", line],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout

"""Checks of what is installed and set: Python, packages, git, the hub, Weights & Biases, Slurm."""

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import kto_lab
from kto_lab.checking.row import Row, judged, note
from kto_lab.runs.environment import git_state

DISTRIBUTION = "kto-lab"
# Rows of their own; the others are one row.
NAMED = ("torch", "lightning", "transformers")
REINSTALL = "Install it with `pip install -c constraints.txt -e .`, or `make .venv/installed`."


def requirements() -> dict[str, Requirement]:
    """What this package needs, by name, without its extras."""
    found = map(Requirement, requires(DISTRIBUTION) or ())
    return {one.name: one for one in found if one.marker is None or one.marker.evaluate({"extra": ""})}


def python() -> Row:
    """Python's version."""
    wanted = str(metadata(DISTRIBUTION)["Requires-Python"])
    found = platform.python_version()
    return judged(
        "Python",
        found,
        limit=wanted,
        holds=found in SpecifierSet(wanted),
        mend="Make an environment of a newer Python.",
    )


def package(name: str) -> Row:
    """A package's version."""
    wanted = requirements()[name].specifier
    found = _version(name)
    holds = found is not None and wanted.contains(found, prereleases=True)
    return judged(name, found or "not installed", limit=str(wanted), holds=holds, mend=REINSTALL)


def torch() -> Row:
    """The version of torch, and what it was built for."""
    row = package("torch")
    import torch as installed

    build = installed.version.cuda or getattr(installed.version, "hip", None)
    kind = "ROCm" if getattr(installed.version, "hip", None) else "CUDA"
    built = f"{kind} {build}" if build else "CPU"
    return Row(row.name, f"{row.measured} for {built}", row.limit, row.verdict, row.mend)


def lightning() -> Row:
    """The version of Lightning."""
    return package("lightning")


def transformers() -> Row:
    """The version of transformers."""
    return package("transformers")


def others() -> Row:
    """All the other packages that are needed."""
    rows = [package(name) for name in requirements() if name not in NAMED]
    wrong = [f"{row.name} {row.measured} ({row.limit})" for row in rows if row.verdict == "failed"]
    said = ", ".join(wrong) or f"{len(rows)} packages"
    return judged("other packages", said, limit="as required", holds=not wrong, mend=REINSTALL)


def git() -> Row:
    """Git, and the checkout that records name."""
    if shutil.which("git") is None:
        return note("git", "not installed: records name no commit")
    state = git_state(Path(kto_lab.__file__).resolve().parent.parent)
    if state is None:
        return note("git", "no checkout: records name no commit")
    return note("git", f"commit {str(state['commit'])[:8]}{', changed' if state['dirty'] else ''}")


def hub() -> Row:
    """Whether the Hugging Face hub may be asked."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return note("Hugging Face hub", "offline (HF_HUB_OFFLINE)")
    return note("Hugging Face hub", f"online, {constants.ENDPOINT}")


def wandb() -> Row:
    """What Weights & Biases is told by its own variables; whether there is a key, not the key."""
    names = {"mode": "WANDB_MODE", "project": "WANDB_PROJECT", "entity": "WANDB_ENTITY"}
    told = [f"{name} {os.environ[variable]}" for name, variable in names.items() if os.environ.get(variable)]
    key = "with a key" if os.environ.get("WANDB_API_KEY") else "no key in WANDB_API_KEY"
    return note("Weights & Biases", ", ".join([_version("wandb") or "not installed", *told, key]))


def slurm() -> Row:
    """Whether there is a Slurm to submit to, and the launcher for it."""
    sbatch = shutil.which("sbatch")
    if sbatch is None:
        return note("Slurm", "none")
    done = subprocess.run([sbatch, "--version"], capture_output=True, text=True, timeout=60)
    launcher = _version("hydra-submitit-launcher")
    said = "launcher installed" if launcher else "no launcher: pip install 'kto-lab[slurm]'"
    inside = f", in job {os.environ['SLURM_JOB_ID']}" if os.environ.get("SLURM_JOB_ID") else ""
    return note("Slurm", f"{done.stdout.strip() or 'there'}, {said}{inside}")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

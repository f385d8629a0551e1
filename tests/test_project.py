"""The files about the project agree with one another and with what `make` and CI run."""

import re
import tomllib
from pathlib import Path

import yaml

import kto_lab

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LINTERS = re.findall(
    r"^\t\$\(BIN\)/(.+)$", (ROOT / "Makefile").read_text().partition("lint:")[2].partition("\n\n")[0], re.M
)


def test_one_version_license_and_author_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert kto_lab.__version__ == PROJECT["version"] == citation["version"]
    assert PROJECT["license"] == citation["license"] == "Apache-2.0"
    assert [author["name"] for author in PROJECT["authors"]] == [author["name"] for author in citation["authors"]]
    license_text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License\n                           Version 2.0" in license_text
    assert "END OF TERMS AND CONDITIONS" in license_text


def test_the_changelog_keeps_its_form() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[(.+?)\]", text, re.M)
    assert versions[0] == "Unreleased" and len(set(versions)) == len(versions)
    kinds = re.findall(r"^### (.+)$", text, re.M)
    assert kinds and set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_hooks_before_a_commit_run_what_lint_runs() -> None:
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert local["repo"] == "local" and {hook["language"] for hook in local["hooks"]} == {"system"}
    # A hook mends what lint would only name, and is given the files of the commit.
    hooks = [hook["entry"].removeprefix(".venv/bin/").removesuffix(" --fix") for hook in local["hooks"]]
    assert hooks == [re.sub(r" (--check )?\.$", "", linter) for linter in LINTERS]


def test_the_workflow_runs_what_ci_runs() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "checks.yml").read_text(encoding="utf-8"))
    steps = workflow["jobs"]["checks"]["steps"]
    assert steps[-1] == {"run": ".ci/run"}
    ran = re.findall(r"^make (\S+)$", (ROOT / ".ci" / "run").read_text(), re.M)
    assert ran == ["lint", "test", "docs", "test-slow", "test-quantization"]

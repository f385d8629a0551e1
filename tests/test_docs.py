"""docs/: the page of losses is what the code says, the worked example works, and every link leads somewhere."""

import csv
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from torch import Tensor

from kto_lab.errors import LabError
from kto_lab.losses import Feed, Needs, Thumbs, declares, kto

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
EXAMPLE = (DOCS / "adding_a_loss.md").read_text(encoding="utf-8")

WHOLE = """A loss.

        -log pi

    Source: nobody.

    Args:
        batch: N completions.

    Returns:
        (N,) losses. At policy = reference: 1.
    """


@pytest.fixture(scope="module")
def writer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("write_loss_docs", ROOT / "scripts" / "write_loss_docs.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def documented(doc: str, *, reference: bool = True) -> Callable[[Thumbs], Tensor]:
    @declares(Needs(Feed.THUMBS, reference=reference))
    def mine(batch: Thumbs) -> Tensor:
        return batch.policy

    mine.__doc__ = doc
    return mine


def test_the_page_of_losses_is_what_the_code_says(writer: ModuleType) -> None:
    kept = writer.TARGET.read_text(encoding="utf-8")
    assert kept == writer.page(), "docs/losses.md is not what the docstrings and conf/ say: run `make docs`."


def test_the_page_has_every_option_and_every_key(writer: ModuleType) -> None:
    page = writer.page()
    for folder in ("loss", "value", "reference_point", "weighting"):
        for file in (ROOT / "conf" / folder).glob("*.yaml"):
            section = page.split(f"### `{file.stem}`\n")[1].split("\n### ")[0]
            prefix = "loss" if folder == "loss" else f"loss.{folder}"
            for key, value in yaml.safe_load(file.read_text()).items():
                if key not in ("defaults", "function", "_target_", "_partial_"):
                    names = (
                        [f"{key}.{inner}" for inner in value if inner[0] != "_"] if isinstance(value, dict) else [key]
                    )
                    assert all(f"| `{prefix}.{name}` | `" in section for name in names), (file, key)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("        -log pi\n\n", "a formula"),
        ("Source: nobody.", "Source"),
        ("(N,) ", "the shape"),
        ("At policy = reference: 1.", "At policy = reference"),
    ],
)
def test_a_docstring_that_lacks_a_part_is_an_error(writer: ModuleType, part: str, words: str) -> None:
    assert writer.read_loss_text(documented(WHOLE)).source == "nobody."
    assert part in WHOLE
    with pytest.raises(LabError, match=rf"test_docs\.mine lacks .*{words}"):
        writer.read_loss_text(documented(WHOLE.replace(part, "")))


def test_a_loss_without_a_reference_has_no_value_at_the_start(writer: ModuleType) -> None:
    text = WHOLE.replace(" At policy = reference: 1.", "")
    assert writer.read_loss_text(documented(text, reference=False)).start == ""


def test_an_unexplained_key_is_an_error(writer: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("# Mine.\nbeta: 0.1   # inverse nats\ninner:\n  gamma: 1.0\n")
    with pytest.raises(LabError, match=r"mine\.yaml: inner\.gamma needs a comment"):
        writer.read_option(file)
    file.write_text("beta: 0.1   # inverse nats\n")
    with pytest.raises(LabError, match="first line"):
        writer.read_option(file)


def test_a_loss_that_no_option_names_is_an_error(writer: ModuleType) -> None:
    with pytest.raises(LabError, match="No option in conf/loss names apo_down, "):
        writer.check_registry([kto])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    local = [link for link in links if not link.startswith("https://")]
    assert local
    for link in local:
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def anchors(page: Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.fixture(scope="module")
def pasted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of the worked example."""
    folder = tmp_path_factory.mktemp("example")
    files = re.findall(r"^`([\w./]+)`:\n\n```(?:python|yaml)\n(.*?)^```$", EXAMPLE, re.M | re.S)
    for name, text in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    assert [name for name, _ in files] == ["my_losses.py", "my_conf/loss/kto_per_token.yaml", "test_my_losses.py"]
    return folder


def command(words: str) -> str:
    """The one command of the worked example that has these words."""
    found = [text for text in re.findall(r"^```sh\n(.*?)^```$", EXAMPLE, re.M | re.S) if words in text]
    assert len(found) == 1
    return found[0]


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


def test_the_tests_of_the_worked_example_pass(pasted: Path) -> None:
    assert re.search(r"6 passed", paste(command("pytest"), pasted))


def test_the_worked_example_trains(pasted: Path) -> None:
    paste(command("kto-lab train"), pasted)
    run = pasted / "runs" / "mine"
    record = json.loads((run / "record.json").read_text())
    training = record["training"]
    assert training["loss"] == "kto_per_token" and training["steps"] == 4
    assert record["config"]["loss"]["function"] == "my_losses.kto_per_token"
    with (run / "metrics.csv").open() as file:
        first = float(next(csv.DictReader(file))["loss"])
    up, down = training["lambda_desirable"] / 2, training["lambda_undesirable"] / 2
    # Half the weight each: the first step's loss is what so many desirable completions of its batch give.
    desirable = (first - down) / (up - down) * training["batch_size"]
    assert desirable == pytest.approx(round(desirable), abs=0.05) and 0 < desirable < training["batch_size"]


def test_the_worked_example_is_documented_as_the_lab_asks(writer: ModuleType, pasted: Path) -> None:
    spec = importlib.util.spec_from_file_location("pasted_losses", pasted / "my_losses.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    option = writer.read_option(pasted / "my_conf" / "loss" / "kto_per_token.yaml")
    section = writer.loss_section(option, module.kto_per_token)
    assert "- **At the start:** weight / 2\n" in section and "| `loss.beta` | `5.0` | inverse nats a token;" in section

"""docs/: the page of losses is what the code says, the worked example works, and every link leads somewhere."""

import csv
import importlib.util
import json
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from torch import Tensor

from kto_lab.errors import LabError
from kto_lab.evaluation.metrics import DECLARED
from kto_lab.losses import Feed, Needs, Thumbs, declares, kto
from tests.pasted import paste, paste_files, shell_lines

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
# What a reader of the repository or of the site may follow links in.
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md"), *(ROOT / "results").rglob("*.md")])
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
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
    return script("write_loss_docs")


def script(name: str) -> ModuleType:
    """A module of scripts/."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
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


def test_the_page_of_metrics_is_what_is_declared() -> None:
    metrics = script("write_metric_docs")
    kept = metrics.TARGET.read_text(encoding="utf-8")
    assert kept == metrics.page(), "docs/metrics.md is not what metrics.py declares: run `make docs`."
    assert all(f"| `{name}` | {metric.about} |" in kept for name, metric in DECLARED.items())


def test_the_page_of_keys_is_what_conf_says() -> None:
    keys = script("write_key_docs")
    kept = keys.TARGET.read_text(encoding="utf-8")
    assert kept == keys.page(), "docs/keys.md is not what conf/ and the types say: run `make docs`."
    for row in (
        "| `optimization.batch_size` | `16` | a whole number of at least 1 | examples (pairs, for dpo) per",
        "| `repeats.one_rater` | `last` | 'last', 'majority', 'all' or 'drop' | by one rater, who changed their mind |",
        "| `loss.value.alpha` | `0.88` | a number |",
        "| `hydra.launcher.timeout_min` | `240` | ",
    ):
        assert row in kept, row


def test_a_row_of_the_page_of_sizes_is_what_is_planned() -> None:
    sizes = script("write_size_docs")
    smallest = sizes.CASES[0]
    kept = sizes.TARGET.read_text(encoding="utf-8")
    for row in (sizes.row(smallest), sizes.checkpointing_row(smallest)):
        assert row in kept, "docs/sizes.md is not what runs plan: run `make docs`."


@pytest.mark.slow
def test_the_page_of_sizes_is_what_is_planned() -> None:
    sizes = script("write_size_docs")
    assert sizes.TARGET.read_text(encoding="utf-8") == sizes.page(), "docs/sizes.md is not what runs plan: `make docs`."


def test_a_key_of_the_index_has_what_its_option_builds_on(tmp_path: Path) -> None:
    keys = script("write_key_docs")
    (tmp_path / "base.yaml").write_text(
        "# A base.\nfirst: 1   # the first\n           # and more of it\nnode:   # a node\n  inner: a | b # c\n"
    )
    (tmp_path / "mine.yaml").write_text("# Mine.\ndefaults:\n  - base\n  - _self_\nfirst: 2\n")
    base = [(key.name, key.default, key.comment) for key in keys.keys_of(tmp_path / "base.yaml", "group", {})]
    assert ("group.node", None, "a node") in base and ("group.node.inner", "a | b", "c") in base
    (mine,) = keys.keys_of(tmp_path / "mine.yaml", "group", {"first": int})
    assert (mine.default, mine.kind) == ("2", "a whole number") and mine.comment == "the first and more of it"
    (tmp_path / "bare.yaml").write_text("# Bare.\nfirst: 1\n")
    with pytest.raises(LabError, match="first needs a comment"):
        keys.keys_of(tmp_path / "bare.yaml", "group", {})


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


def links(page: Path) -> list[str]:
    """The relative links of a page, outside of its code."""
    text = re.sub(r"^```.*?^```$|`[^`\n]+`", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    return [link for link in LINK.findall(text) if not link.startswith("https://")]


def anchors(page: Path) -> set[str]:
    """What GitHub, and the site, call the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in links(page):
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        assert target.resolve().is_relative_to(ROOT), f"{link} leads out of the repository"
        assert not anchor or anchor in anchors(target), link


def test_readme_leads_to_every_page_of_the_guide() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
    reached = {(ROOT / link.partition("#")[0]).resolve() for link in links(ROOT / "README.md")}
    assert reached >= {page for page in PAGES if page.parent == DOCS}


def site() -> dict[str, Any]:
    """mkdocs.yml, without what only mkdocs can make of its tags."""
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    return yaml.safe_load(re.sub(r"!!python/\S+ \{.*\}", "null", text))


def nav(entries: list[Any]) -> Iterator[str]:
    """The pages of a navigation, in order."""
    for entry in entries:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            yield from nav(value) if isinstance(value, list) else [value]


def test_the_site_has_every_page_once(hooks: ModuleType) -> None:
    pages = [str(page.relative_to(DOCS)) for page in PAGES if page.is_relative_to(DOCS)]
    assert sorted(nav(site()["nav"])) == sorted([*pages, *hooks.OUTSIDE.values()])


def test_the_site_has_an_api_page_of_every_package(hooks: ModuleType) -> None:
    named = [name for page in hooks.api_pages().values() for name in re.findall(r"^::: (\S+)$", page, re.M)]
    layers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
    assert sorted(named) == sorted(f"kto_lab.{name}" for layer in layers for name in layer.split(" | "))


def test_the_page_of_the_architecture_names_every_package() -> None:
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    packages = {path.parent.name for path in (ROOT / "kto_lab").glob("*/__init__.py")}
    assert packages == set(re.findall(r"^      (\w+)/ ", page, re.M))


def test_the_site_is_built_without_the_network() -> None:
    theme = site()["theme"]
    assert theme["font"] is False and site()["strict"] is True
    assert site()["site_dir"].partition("/")[0] + "/" in (ROOT / ".gitignore").read_text().splitlines()


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    return script("site_hooks")


@pytest.mark.parametrize(
    ("source", "uri", "link", "relinked"),
    [
        ("README.md", "index.md", "[a](docs/b.md#c)", "[a](b.md#c)"),
        ("README.md", "index.md", "![a](docs/a.svg)", "![a](a.svg)"),
        ("docs/b.md", "b.md", "[home](../README.md)", "[home](index.md)"),
        ("docs/api/c.md", "api/c.md", "[a](../b.md)", "[a](../b.md)"),
        ("docs/b.md", "b.md", "[below](#c)", "[below](#c)"),
        ("docs/b.md", "b.md", "[Hydra](https://hydra.cc)", "[Hydra](https://hydra.cc)"),
        ("docs/b.md", "b.md", "[`x.py`](../kto_lab/x.py)", "`kto_lab/x.py`"),
        ("docs/b.md", "b.md", "[the data card](../kto_lab/card.md)", "the data card (`kto_lab/card.md`)"),
    ],
)
def test_a_link_leads_to_the_same_page_on_the_site(
    hooks: ModuleType, source: str, uri: str, link: str, relinked: str
) -> None:
    known = {"README.md": "index.md", "docs/b.md": "b.md", "docs/a.svg": "a.svg", "docs/api/c.md": "api/c.md"}
    assert hooks.relink(f"See {link}.", source, uri, known) == f"See {relinked}."


def test_the_python_of_readme_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    snippets = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {}
    for snippet in snippets:
        exec(snippet, names)
    # What the comment beside the line says of it.
    (shown,) = re.findall(r"# \(3,\): (.+)$", text, re.M)
    assert names["losses"].tolist() == pytest.approx([float(value) for value in shown.split(", ")], abs=5e-4)
    assert names["batch"].policy.grad.sign().tolist() == [-1, -1, 1]
    assert len(names["frame"]) == 540


@pytest.fixture(scope="module")
def pasted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of the worked example."""
    folder = tmp_path_factory.mktemp("example")
    assert paste_files(EXAMPLE, folder) == ["my_losses.py", "my_conf/loss/kto_per_token.yaml", "test_my_losses.py"]
    return folder


def command(words: str) -> str:
    """The one command of the worked example that has these words."""
    (found,) = [line for line in shell_lines(EXAMPLE) if words in line]
    return found


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
    assert "- **At the start:** weight / 2\n" in section and "| `loss.beta` | `5.0` | inverse temperature," in section

"""Hooks of the site's build (mkdocs.yml): pages from outside docs/, API pages, and links that lead out of the site.

README, CONTRIBUTING and CHANGELOG stand at the top of the repository, where people and tools look for them, and are
pages of the site. Every package has an API page from its docstrings, and the modules beside the packages have one
together. A link to a file that is not part of the site, such as code or a result,
becomes the file's path.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PACKAGE = Path(__file__).resolve().parent.parent / "kto_lab"
# Where a file outside docs/ is on the site.
OUTSIDE = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]*)(#[^)\s]*)?\)")
FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


def on_config(config: MkDocsConfig) -> None:
    """Put the API pages at the end of the navigation."""
    config.nav = [*(config.nav or ()), {"API": list(api_pages())}]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that stand outside docs/, and the API pages."""
    for source, target in OUTSIDE.items():
        files.append(File.generated(config, target, abs_src_path=str(PACKAGE.parent / source)))
    for target, content in api_pages().items():
        files.append(File.generated(config, target, content=content))
    return files


def api_pages() -> dict[str, str]:
    """Each API page, by its place on the site: one for each package, and one for the modules beside them."""
    packages = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
    modules = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")
    together = "\n\n".join(f"::: kto_lab.{name}" for name in modules)
    pages = {f"api/{name}.md": f"# kto_lab.{name}\n\n::: kto_lab.{name}\n" for name in packages}
    return pages | {
        "api/modules.md": f"# Modules\n\nThe command line, and what every package may import.\n\n{together}\n"
    }


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point the links of a page to where their targets are on the site."""
    inside = {target: source for source, target in OUTSIDE.items()}
    uri = page.file.src_uri
    source = inside.get(uri, f"docs/{uri}")
    known = {inside.get(file.src_uri, f"docs/{file.src_uri}"): file.src_uri for file in files}
    pieces = FENCE.split(markdown)
    pieces[::2] = [relink(text, source, uri, known) for text in pieces[::2]]
    return "".join(pieces)


def relink(markdown: str, source: str, uri: str, known: dict[str, str]) -> str:
    """The Markdown with each relative link as it is on the site.

    Args:
        markdown: text without blocks of code.
        source: the file that it is from, relative to the repository.
        uri: the page that it becomes, relative to the site's root.
        known: each file that the site has, relative to the repository, and where it is on the site.
    """

    def replace(link: re.Match[str]) -> str:
        image, text, target, anchor = link[1], link[2], link[3], link[4] or ""
        if not target or "://" in target:
            return link[0]
        file = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if file in known:
            return f"{image}[{text}]({posixpath.relpath(known[file], posixpath.dirname(uri) or '.')}{anchor})"
        return f"`{file}`" if text.strip("`") in file else f"{text} (`{file}`)"

    return LINK.sub(replace, markdown)

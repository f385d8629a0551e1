"""Modules in a folder of their own, to ask what a run depends on."""

from pathlib import Path

from kto_lab.runs.code import Code


class Lab:
    """Modules in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.code = Code([folder])

    def write(self, name: str, text: str) -> None:
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def modules(self, *roots: str) -> list[str]:
        return list(self.code.closure(roots))

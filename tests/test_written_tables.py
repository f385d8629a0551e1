"""Tables that the lab writes carry the checksums of their pages."""

import ast
from pathlib import Path

import kto_lab

WRITERS, READERS = ("write_table", "ParquetWriter"), ("read_table", "ParquetFile")


def test_every_parquet_file_is_written_and_read_with_checksums() -> None:
    found = 0
    for file in Path(kto_lab.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if not (isinstance(node.func.value, ast.Name) and node.func.value.id == "pq"):
                continue
            given = {keyword.arg for keyword in node.keywords}
            where = f"{file.name}:{node.lineno}"
            if node.func.attr in WRITERS:
                found += 1
                assert "write_page_checksum" in given, where
            elif node.func.attr in READERS:
                found += 1
                assert "page_checksum_verification" in given, where
    assert found > 5

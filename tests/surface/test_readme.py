"""Every SQL example of README.md and docs/user, run top to bottom in an empty database.

A block marked ``sql`` is executed statement by statement; a block marked ``text`` right after it is
what psql prints for the last result. Cells are compared as text, and ``...`` stands for anything.
A text block that begins with ``ERROR:`` is what psql prints when the last statement fails.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import psycopg
import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "user").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[tuple[str, str | None]]:
    """(sql, expected text or None), in order."""
    found: list[list] = []
    for kind, body in BLOCK.findall(page.read_text()):
        if kind == "sql":
            found.append([body, None])
        elif kind == "text" and found and found[-1][1] is None:
            found[-1][1] = body
    return [tuple(pair) for pair in found]


def statements(body: str) -> list[str]:
    """The statements of a block: each ends with a semicolon at the end of a line, outside of
    dollar quotes."""
    result, lines = [], []
    for line in body.splitlines():
        lines.append(line)
        text = "\n".join(lines)
        if line.rstrip().endswith(";") and text.count("$$") % 2 == 0:
            result.append(text.strip())
            lines = []
    assert not "".join(lines).strip(), f"no semicolon at the end of: {lines}"
    return result


def printed(value) -> str:
    """A value as psql prints it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "t" if value else "f"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def failed(error: psycopg.Error) -> str:
    """An error as psql prints it, without its CONTEXT."""
    lines = [("ERROR", error.diag.message_primary), ("DETAIL", error.diag.message_detail),
             ("HINT", error.diag.message_hint)]
    return "\n".join(f"{name}:  {text}" for name, text in lines if text)


def table(text: str) -> list[list[str]]:
    """The cells of psql's output: the header, then the rows."""
    lines = [line for line in text.splitlines() if line.strip()]
    rows = [[cell.strip() for cell in line.split("|")] for line in lines
            if not re.fullmatch(r"[-+ ]+|\(\d+ rows?\)", line.strip())]
    if counts := re.search(r"\((\d+) rows?\)", text):
        assert len(rows) - 1 == int(counts.group(1)), "the example miscounts its own rows"
    return rows


def check(expected: str, cursor) -> None:
    actual = [[column.name for column in cursor.description]]
    actual += [[printed(cell) for cell in row] for row in cursor.fetchall()]
    wanted = table(expected)
    assert len(actual) == len(wanted), actual
    for want, got in zip(wanted, actual, strict=True):
        if want == ["..."]:
            continue
        assert len(want) == len(got) and all(
            w in ("...", g) for w, g in zip(want, got, strict=True)), (want, actual)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda p: p.name)
def test_examples_run_and_print_what_they_say(page, module_database, worker):
    database = module_database(extension=page.name != "README.md")
    with contextlib.ExitStack() as stack:  # a worker a page: together they would need 100 sessions
        running = None
        for body, expected in blocks(page):
            *_, last = parts = statements(body)
            for statement in parts:
                if "pgrain." in statement and running is None:
                    running = worker(database)
                    stack.callback(running.stop)
                try:
                    cursor = database.execute(statement)
                except psycopg.Error as error:
                    if statement is last and (expected or "").startswith("ERROR:"):
                        assert failed(error) == expected.strip()
                        break
                    pytest.fail(f"{statement}\n{error}")
            else:
                assert not (expected or "").startswith("ERROR:"), f"no error from {last}"
                if expected:
                    check(expected, cursor)


def test_first_code_block_comes_early():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert any(line.startswith("```") for line in lines[:15])


def test_readme_names_every_function_that_exists(module_database):
    """The reference lists what there is, and nothing that is not."""
    database = module_database()
    functions = {name for (name,) in database.rows(
        "SELECT DISTINCT proname FROM pg_proc WHERE pronamespace = 'pgrain'::regnamespace"
        " AND proname NOT LIKE E'\\\\_%'")}
    views = {name for (name,) in database.rows(
        "SELECT viewname FROM pg_views WHERE schemaname = 'pgrain'"
        " AND viewname NOT LIKE E'\\\\_%'")}
    reference = (ROOT / "README.md").read_text().split("## Reference")[1].split("\n## ")[0]
    listed = set(re.findall(r"`(?:CALL )?(\w+)\(", reference))
    listed |= set(re.findall(r"(?:, `|`CALL )(\w+)\(", reference))
    assert functions - listed == set(), "missing in the reference"
    assert listed - functions == set(), "in the reference, but not in the extension"
    row = next(line for line in reference.splitlines() if line.startswith("| views"))
    assert set(re.findall(r"`(\w+)`", row)) == views

"""The script that ALTER EXTENSION pgrain UPDATE runs, made of two full scripts and a part by hand.

`extension/released/` keeps the script of every released version as it was; the new one is made of
`sql/`. What stands in the new one and not in the old is added; functions are replaced always, since
their bodies name the folder of their version's Python; rights are given again. What cannot be found
by comparing (a table that has another shape, a function that is gone or returns something else)
stands in `extension/upgrade/OLD--NEW.sql`, which runs first. `tests/surface/test_upgrade.py` proves
that an upgraded catalog equals a fresh one, and says where it does not.

A new release: `python -m pgrain.cli.upgrade freeze` keeps the script of the present version.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

_PIECE = re.compile(r"""
    (?P<comment>--[^\n]*|/\*.*?\*/)
  | (?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")
  | (?P<quote>\$(?:[A-Za-z_]\w*)?\$)
  | (?P<end>;)
""", re.VERBOSE | re.DOTALL)
_ROUTINE = re.compile(r"CREATE (FUNCTION|PROCEDURE|VIEW) ")
# Run again, even where they have not changed: replacing a function takes its settings away.
_REPEATED = re.compile(r"(DO|GRANT|REVOKE|ALTER FUNCTION) ")
_NOTICE = """
DO $$
DECLARE
    roles text;
BEGIN
    SELECT pg_catalog.string_agg(DISTINCT grantee::regrole::text, ', ') INTO roles
    FROM pg_catalog.pg_proc p, pg_catalog.aclexplode(p.proacl)
    WHERE p.pronamespace = 'pgrain'::regnamespace AND grantee <> p.proowner AND grantee <> 0
        AND grantee <> (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = 'pgrain_worker');
    IF roles IS NOT NULL THEN
        -- (A script's notices are not shown.)
        RAISE WARNING 'pgrain: what is new is not granted to anybody yet'
            USING HINT = 'Run SELECT pgrain.grant_usage(...) again for: ' || roles || '.';
    END IF;
END $$;
"""


def statements(script: str) -> Iterator[str]:
    """The statements of a script, without the comments and blanks before each; psql's own
    commands (\\echo) are no statements."""
    script = re.sub(r"^\\[^\n]*\n", "", script, flags=re.MULTILINE)
    start = at = 0
    while found := _PIECE.search(script, at):
        at = found.end()
        if quote := found.group("quote"):
            at = script.index(quote, at) + len(quote)
        elif found.group("end"):
            yield _bare(script[start:at])
            start = at
    rest = _bare(script[start:])
    if rest:
        raise ValueError(f"a statement has no end: {rest[:60]!r}")


def _bare(text: str) -> str:
    """Without leading comments and blanks."""
    while found := re.match(r"\s+|--[^\n]*\n?|/\*.*?\*/", text, re.DOTALL):
        text = text[found.end():]
    return text


def upgrade_script(old: str, new: str, by_hand: str) -> str:
    """The script from one version to the next, of their full scripts."""
    known = set(statements(old))
    parts = ['\\echo Use "ALTER EXTENSION pgrain UPDATE" to load this file. \\quit',
             "SET LOCAL search_path TO pg_catalog, pg_temp;", by_hand.strip(), ""]
    for statement in statements(new):
        if _ROUTINE.match(statement):
            parts.append(statement.replace("CREATE ", "CREATE OR REPLACE ", 1))
        elif _REPEATED.match(statement) or statement not in known:
            if not _of_a_known_table(statement, known):
                parts.append(statement)
    return "\n".join([*parts, _NOTICE])


def _of_a_known_table(statement: str, known: set[str]) -> bool:
    """Whether it creates a table that the old version has too, in another shape."""
    found = re.match(r"CREATE TABLE (\S+) ", statement)
    return found is not None and any(other.startswith(found.group(0)) for other in known)


def upgrades(extension: Path, version: str, full: str) -> dict[str, str]:
    """name -> text of the upgrade scripts to `version` from every released version before it.

    extension: the folder with `released` and `upgrade`; full: the script of `version`, its tokens
    not yet filled in."""
    scripts = {}
    for part in sorted((extension / "upgrade").glob(f"*--{version}.sql")):
        old = (extension / "released" / f"pgrain--{part.name.split('--')[0]}.sql").read_text()
        scripts[f"pgrain--{part.name}"] = upgrade_script(old, full, part.read_text())
    return scripts


def freeze() -> Path:
    """Keep the script of the present version; the file that was written."""
    from pgrain.cli import install
    place = install.sources()[1] / "released" / f"pgrain--{install.version()}.sql"
    place.write_text(install.full_script())
    return place


if __name__ == "__main__":
    if sys.argv[1:] != ["freeze"]:
        sys.exit("usage: python -m pgrain.cli.upgrade freeze")
    print(freeze())

"""CASE x WHEN v THEN … spelled as CASE WHEN (x) = (v) THEN …."""

from __future__ import annotations

import pytest

from pgrain.plan.searched_case import searched_case


@pytest.mark.parametrize(("simple", "searched"), [
    ("CASE a WHEN 1 THEN 2 WHEN b + 1 THEN 3 ELSE 4 END",
     "CASE WHEN (a ) = (1 ) THEN 2 WHEN (a ) = (b + 1 ) THEN 3 ELSE 4 END"),
    # inside each other: in the operand, in a value, in a result
    ("CASE CASE b WHEN 1 THEN 2 END WHEN 3 THEN CASE c WHEN 4 THEN 5 END END",
     "CASE WHEN (CASE WHEN (b ) = (1 ) THEN 2 END ) = (3 ) THEN CASE WHEN (c ) = (4 ) THEN 5 END"
     " END"),
    ("CASE WHEN a THEN CASE b WHEN f(CASE c WHEN 1 THEN 2 END) THEN 3 END END",
     "CASE WHEN a THEN CASE WHEN (b ) = (f(CASE WHEN (c ) = (1 ) THEN 2 END) ) THEN 3 END END"),
    # words in texts, comments and names are none
    ("SELECT 'CASE x WHEN', t.case, CASE a -- WHEN\n WHEN 'THEN' THEN 2 END AS end",
     "SELECT 'CASE x WHEN', t.case, CASE -- WHEN\n WHEN (a ) = ('THEN' ) THEN 2 END AS end"),
    ("SELECT CASE WHEN a = 1 THEN 2 END", None), ("SELECT a", None)])
def test_simple_is_searched(simple: str, searched: str | None) -> None:
    made = searched_case(simple)
    assert (made and made.split()) == (searched and searched.split())

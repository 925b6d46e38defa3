"""The complaint grammar: what it reads, what it refuses and why."""

from __future__ import annotations

import pytest

from pgrain.complaint.grammar import parse
from pgrain.errors import ComplaintSyntax

GOOD = [
    # text, column, operator, target, where
    ("flagged <= 50", "flagged", "<=", 50.0, None),
    ("flagged<=50", "flagged", "<=", 50.0, None),
    ("Flagged < 50 where hour = 13", "flagged", "<", 50.0, "hour = 13"),
    ('"Flagged %" >= -1.5e3 WHERE "Hour" = 13', "Flagged %", ">=", -1500.0, '"Hour" = 13'),
    ("n<=-5", "n", "<=", -5.0, None),
    ("n = +.5", "n", "=", 0.5, None),
    ("label = 'trouser' WHERE id = 17", "label", "=", "trouser", "id = 17"),
    ("label = 'O''Brien'", "label", "=", "O'Brien", None),
    ("label = $$x 'y'$$", "label", "=", "x 'y'", None),
    ("label = ''", "label", "=", "", None),
    ("risky = TRUE WHERE id = 1", "risky", "=", "true", "id = 1"),
    ("flagged too high", "flagged", "too high", None, None),
    ("flagged TOO LOW WHERE a BETWEEN 1 AND 2", "flagged", "too low", None, "a BETWEEN 1 AND 2"),
    ("no <= 3", "no", "<=", 3.0, None),
    ("no row", None, "no row", None, None),
    ("a row WHERE hour = 3", None, "a row", None, "hour = 3"),
    ("n > 1 -- really\n WHERE x = 'WHERE' /* so */", "n", ">", 1.0, "x = 'WHERE'"),
    ("größe > 1", "größe", ">", 1.0, None),
    ("n > 1 WHERE t IN ('a', 'b;c') AND NOT (x IS NULL OR y ~ '^1')", "n", ">", 1.0,
     "t IN ('a', 'b;c') AND NOT (x IS NULL OR y ~ '^1')"),
]

BAD = [
    # text, word of the detail
    ("", "empty"), ("flagged", "nothing"), ("flagged <=", "missing"), ("<= 5", "not a column"),
    ("flagged == 5", "not one of"), ("flagged <> 5", "not one of"), ("flagged != 5", "not one of"),
    ("flagged <= 5 5", "neither"), ("flagged <= x", "neither"), ("flagged <= (5)", "neither"),
    ("flagged <= NULL", "neither"), ("flagged <= 1 + 1", "neither"), ("n <= 1e999", "too large"),
    ("flagged too", "cannot be read"), ("flagged too big", "cannot be read"),
    ("flagged <= 5 WHERE", "empty"), ("WHERE a = 1", "no column"),
    ("n <= 5 WHERE a = 1) OR (b = 2", "bracket"), ("n <= 5 WHERE (a = 1", "bracket"),
    ("n <= 5 WHERE a = 1; DROP TABLE t", ";"), ("n <= 5 WHERE a = $1", "$1"),
    ("n <= 5 WHERE a = (SELECT 1)", "subquery"), ("n <= 5 WHERE EXISTS (SELECT 1)", "subquery"),
    ("n <= 5 WHERE pgrain.predict('m', x) = 'a'", "calls a model"),
    ("n <= 5 WHERE predict('m', x) = 'a'", "calls a model"),
    ("n <= 5 WHERE a = 1, b = 2", "condition"), ("n <= 5 WHERE a = 1 GROUP BY a", "condition"),
    ("n <= 5 WHERE a = 1 UNION SELECT 2", "condition"), ("n <= 'x' /* ", "comment"),
    ("label = E'a\\'b'", "escapes"), ("n <= 5 WHERE a = 'b", "read"),
]


@pytest.mark.parametrize(("text", "column", "operator", "target", "where"), GOOD)
def test_reads(text, column, operator, target, where) -> None:
    complaint = parse(text)
    assert (complaint.column, complaint.operator, complaint.target, complaint.where) == (
        column, operator, target, where)
    assert complaint.text == text


@pytest.mark.parametrize(("text", "word"), BAD)
def test_refuses_and_says_why(text: str, word: str) -> None:
    with pytest.raises(ComplaintSyntax) as raised:
        parse(text)
    assert raised.value.sqlstate == "42601"
    assert word in raised.value.detail.lower() or word in raised.value.detail
    assert raised.value.hint

"""Misspelt classes in queries."""

from __future__ import annotations

import pytest

from pgrain.errors import nearest, no_class
from pgrain.plan.class_names import misspelt

CLASSES = {"m": ["red", "green", "dark blue"]}


@pytest.mark.parametrize(("query", "found"), [
    ("SELECT count(*) FROM t WHERE pgrain.predict('m', x) = 'redd'", [("redd", "red")]),
    ("SELECT 1 FROM t WHERE 'Green' <> predict('m', x)", [("Green", "green")]),
    ("SELECT predict('m', x)::text NOT IN ('red', 'darkblue', 'xyz') FROM t",
     [("darkblue", "dark blue"), ("xyz", None)]),
    ("SELECT * FROM (SELECT \"pgrain\".\"predict\"('m', t) != $$gren$$ AS l FROM t) s",
     [("gren", "green")]),
    # Nothing to tell: a class; another model; no class of the text alone; not our function.
    ("SELECT predict('m', x) = 'red' AND predict('n', x) = 'z' AND predict('m', x) = c FROM t", []),
    ("SELECT 'a' || 'b' = predict('m', x) AND predict('m', x) = 're' || 'd' FROM t", []),
    ("SELECT other.predict('m', x) = 'q', '-- predict(''m'', x) = ''q''' FROM t", []),
])
def test_what_is_told(query, found):
    notes = misspelt(query, CLASSES)
    assert len(notes) == len(found)
    for note, (text, meant) in zip(notes, found, strict=True):
        assert note.startswith(f'model "m" has no class "{text}"; ')
        assert (f'did you mean "{meant}"? ' in note) == (meant is not None)
        assert note.endswith("its classes: red, green, dark blue")


def test_the_nearest_name():
    assert nearest("TROUSER ", ["dress", "trouser"]) == "trouser"
    assert nearest("zebra", ["dress", "trouser"]) is None
    assert nearest("a", []) is None
    error = no_class("m", "drss", [f"dress {i}" for i in range(30)])
    assert error.sqlstate == "22023" and "dress" in error.hint
    assert error.detail.endswith("dress 19 and 10 more.")

"""Whether anything can have changed since something was looked up.

What a complaint must know of the catalogs (what EXPLAIN shows, what names mean, models, files)
takes several statements to ask. All of it is a function of what has been committed, of this
session's role, search_path and row_security, of the settings by which PostgreSQL reads constants
('01/02/2020' is a day in January or in February), and of nothing else. So as long as those are the
same and not one transaction has been committed since, which a snapshot shows, the answers stand;
else everything is asked again. A constant that says "now" is another one each time (`moves`).

A snapshot tells nothing about what this transaction has written itself, on a standby it does not
name the transactions under way, and under REPEATABLE READ it is the transaction's, older than the
catalogs: there the mark is None, which equals no other.
"""

from __future__ import annotations

import re
from collections import namedtuple

from pgrain.backend.spi import query
from pgrain.errors import InvalidArgument

# What a constant's text means is settled when a statement is prepared, and stays: by the two
# styles, by these, and by the day in this session's time zone ('today', '12:00' with time zone).
_READING = ("TimeZone", "timezone_abbreviations", "array_nulls", "transform_null_equals",
            "xmloption", "lc_monetary", "bytea_output", "extra_float_digits")
_NOW = re.compile(r"\bnow\b(?!\s*\()", re.IGNORECASE)    # now() is a call, evaluated each time
_ENVIRONMENT = f"""
SELECT pg_catalog.current_setting('search_path') AS path, current_user::text AS role,
       pg_catalog.current_setting('row_security') AS row_security,
       pg_catalog.current_setting('standard_conforming_strings') AS strings,
       pg_catalog.current_setting('DateStyle') AS date_style,
       pg_catalog.current_setting('IntervalStyle') AS interval_style,
       pg_catalog.concat_ws('|', CURRENT_DATE, {
           ", ".join(f"pg_catalog.current_setting('{name}')" for name in _READING)}) AS reading,
       CASE WHEN pg_catalog.pg_current_xact_id_if_assigned() IS NULL
                 AND NOT pg_catalog.pg_is_in_recovery()
                 AND pg_catalog.current_setting('transaction_isolation')
                     OPERATOR(pg_catalog.=) 'read committed'
            THEN pg_catalog.pg_current_snapshot()::text END AS mark"""


class Environment(namedtuple("Environment", "path role row_security date_style interval_style "
                                            "reading mark")):
    """What a query's names, rights and constants depend on, as texts. reading: the other settings
    by which constants are read; mark: the statement's snapshot as text, or None where equal marks
    would not mean that nothing has changed."""

    __slots__ = ()


def environment(plpy) -> Environment:
    """That of the caller's statement; 22023 where strings would be read in another way."""
    row = dict(query(plpy, _ENVIRONMENT)[0])
    if row.pop("strings") != "on":
        raise InvalidArgument("standard_conforming_strings is off",
                              hint="SET standard_conforming_strings = on.")
    return Environment(**row)


def still(plpy, mark: str | None) -> bool:
    """Whether nothing has been committed between the snapshot of `mark` and this moment."""
    return mark is not None and query(
        plpy, "SELECT pgrain._snapshot() AS mark")[0]["mark"] == mark


def moves(text: str) -> bool:
    """Whether a constant in an SQL text may be another one each time that it is read."""
    return _NOW.search(text) is not None

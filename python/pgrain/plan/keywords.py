"""PostgreSQL's key words by what they may be used for, and the names of its aggregates.

From ``pg_get_keywords()`` and ``pg_proc`` of PostgreSQL 15 (src/include/parser/kwlist.h), with what
16 to 18 add; tests/provenance/test_reader.py compares them with the server. Key words that are in
no set here may stand wherever a name may.
"""

from __future__ import annotations

from pgrain.plan.lexer import Token

# Never a name of a column, table or function unless in quotes.
RESERVED = frozenset(
    "all analyse analyze and any array as asc asymmetric both case cast check collate column"
    " constraint create current_catalog current_date current_role current_time current_timestamp"
    " current_user default deferrable desc distinct do else end except false fetch for foreign from"
    " grant group having in initially intersect into lateral leading limit localtime localtimestamp"
    " not null offset on only or order placing primary references returning select session_user"
    " some symmetric system_user table then to trailing true union unique user using variadic when"
    " where window with".split())
# The name of a function or type, of nothing else.
FUNCTION_OR_TYPE = frozenset(
    "authorization binary collation concurrently cross current_schema freeze full ilike inner is"
    " isnull join left like natural notnull outer overlaps right similar tablesample verbose"
    .split())
# The name of a column or table; as a function they have a grammar of their own.
COLUMN_ONLY = frozenset(
    "between bigint bit boolean char character coalesce dec decimal exists extract float greatest"
    " grouping inout int integer interval json_array json_arrayagg json_exists json_object"
    " json_objectagg json_query json_scalar json_serialize json_table json_value least merge_action"
    " national nchar none normalize nullif numeric out overlay position precision real row setof"
    " smallint substring time timestamp treat trim values varchar xmlattributes xmlconcat"
    " xmlelement xmlexists xmlforest xmlnamespaces xmlparse xmlpi xmlroot xmlserialize xmltable"
    .split())
# A label in the select list only after AS.
LABEL_AFTER_AS = frozenset(
    "array as char character create day except fetch filter for from grant group having hour"
    " intersect into isnull limit minute month notnull offset on order over overlaps precision"
    " returning second to union varying where window with within without year".split())

AGGREGATES = frozenset(
    "any_value array_agg avg bit_and bit_or bit_xor bool_and bool_or corr count covar_pop"
    " covar_samp every json_agg json_agg_strict json_arrayagg json_object_agg"
    " json_object_agg_strict json_object_agg_unique json_object_agg_unique_strict json_objectagg"
    " jsonb_agg jsonb_agg_strict jsonb_object_agg jsonb_object_agg_strict jsonb_object_agg_unique"
    " jsonb_object_agg_unique_strict max min mode percentile_cont percentile_disc range_agg"
    " range_intersect_agg"
    " regr_avgx regr_avgy regr_count regr_intercept regr_r2 regr_slope regr_sxx regr_sxy regr_syy"
    " stddev stddev_pop stddev_samp string_agg sum var_pop var_samp variance xmlagg".split())

# Begin a query inside brackets.
QUERY = ("select", "with", "values", "table")
# May follow a query, or part of one.
AFTER_QUERY = ("union", "intersect", "except", "order", "limit", "offset", "fetch", "for")


def is_column_name(token: Token) -> bool:
    """Whether the token may begin the name of a column, or be one of a table (ColId)."""
    return token.kind == "quoted" or (token.kind == "word" and token.value not in RESERVED
                                      and token.value not in FUNCTION_OR_TYPE)


def is_function_name(token: Token) -> bool:
    """Whether the token may be the whole name of a function or type."""
    return token.kind == "quoted" or (token.kind == "word" and token.value not in RESERVED
                                      and token.value not in COLUMN_ONLY)


def is_bare_label(token: Token) -> bool:
    """Whether the token may name a column of the result without AS before it."""
    return token.kind == "quoted" or (token.kind == "word"
                                      and token.value not in LABEL_AFTER_AS)

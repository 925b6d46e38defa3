"""Random queries by family: each row of the table of operators that must work has families here.

`FAMILIES` maps a family's name to its maker; the makers are in the modules `family_*`. A query
depends on its family's name and its seed alone, so that new families change none of the old ones'.
"""

from __future__ import annotations

import random
import re

import family_aggregates
import family_over_groups
import family_relations
import family_subqueries
import family_together
from provenance_family_parts import FAMILIES, Parts, Query

__all__ = ["FAMILIES", "make_query"]
# They fill FAMILIES.
assert family_relations and family_aggregates and family_over_groups and family_subqueries \
    and family_together


_CALLS = re.compile(r"predict|\b(vm|vmm|vmw|vg|vu|ve|vom)\b")   # the views that call a model


def make_query(name: str, seed: int, number: int = 0) -> Query:
    """The query of a family; the same for the same arguments."""
    parts = Parts(random.Random(f"{name}/{seed}/{number}"))
    while True:
        query = FAMILIES[name](parts)
        if _CALLS.search(query.text):
            return query

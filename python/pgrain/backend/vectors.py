"""complaint_vector and rank: a complaint handed from one team to another."""

from __future__ import annotations

from pgrain.backend import session
from pgrain.backend.complain import check_options, evaluate_complaints
from pgrain.backend.keys import visible
from pgrain.backend.models import gone, require_model
from pgrain.backend.spi import entry_point, query, writes_nothing
from pgrain.errors import InsufficientPrivilege
from pgrain.settings import TOP_K

_OPTIONS = {"among", "plausible", "k", "damping", "filter", "normalize"}


@entry_point
@writes_nothing
def complaint_vector(plpy, text: str, complaints: list[str]) -> bytes | None:
    """The bytes of a complaint vector (worker/vectors.py); None if nothing is violated."""
    evaluated = evaluate_complaints(plpy, text, complaints, {})
    answer, blobs = session.call(plpy, "vector", evaluated)
    for notice in answer["notices"]:
        plpy.notice(notice)
    return bytes(blobs[0]) if blobs else None


@entry_point
@writes_nothing
def rank(plpy, name: str, vector: bytes, top_k: int, intervention: str,
         options: str) -> list[tuple]:
    """The ranking that a vector asks for.

    A vector of one's own making reads the projections of the training rows, one after the other:
    hence only who may read the training table itself may rank by one.
    """
    options = check_options(options, _OPTIONS)
    TOP_K.check(top_k)
    model = require_model(plpy, name)
    if not model["there"]:
        raise gone(name)
    if not query(plpy, "SELECT pg_catalog.has_table_privilege($1::regclass, 'SELECT') AS mine",
                 ["text"], [model["training_table"]])[0]["mine"]:
        raise InsufficientPrivilege(f"permission denied for relation {model['training_table']}",
                                    detail="Ranking by a vector shows what can be read from it.",
                                    hint=f"Its owner can GRANT SELECT ON {model['training_table']} "
                                         "to you.")
    facts = session.model_facts(plpy, name)
    answer, _ = session.call(plpy, "rank_vector", {
        "model": {"name": name, "version": facts.version, "spectrum": facts.spectrum},
        "top_k": top_k, "intervention": intervention, "options": options}, [vector])
    for notice in answer["notices"]:
        plpy.notice(notice)
    return visible(plpy, answer["rows"], model=1, number=2, key=3)

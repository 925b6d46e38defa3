"""The entry points of the SQL functions; the stubs in sql/ call nothing else.

A module is imported when a session first calls a function of it: `predict`, which every session
calls, needs a few, and a session begins in milliseconds.
"""

from importlib import import_module

# Module: its entry points, as `name` or as `name=name in the module`.
_HOMES = {
    "assess": "assess",
    "complain": "complain explain explain_statement provenance",
    "describe": "cluster describe resembles",
    "doctor": "doctor settings_rows worker_here",
    "forget": "forget",
    "interventions": "create_intervention drop_intervention edits_sql",
    "jobs": "attach cancel import_weights precompute train",
    "keys": "protect_keys",
    "models": "activate alter_model apply create_model detach drop_model revert",
    "plan_repair": "plan_repair",
    "predict": "known predict predict_proba",
    "predict_batch": "predict_next predict_open",
    "repair": "complaints_hold plan_for_repair repair",
    "session": "load_session=load load_model",
    "vectors": "complaint_vector rank",
    "watch": "load_watch=load load_watch_cells=load_cells",
    "watch_making": "build_watch=build unwatch watch",
}
_ENTRIES = {name: (module, there or name) for module, names in _HOMES.items()
            for name, _, there in (part.partition("=") for part in names.split())}

__all__ = sorted(_ENTRIES)


def __getattr__(name: str):
    if name not in _ENTRIES:
        raise AttributeError(name)
    module, there = _ENTRIES[name]
    found = globals()[name] = getattr(import_module(f"pgrain.backend.{module}"), there)
    return found

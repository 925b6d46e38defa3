"""The entry points of the SQL functions; the stubs in sql/ call nothing else."""

from pgrain.backend.assess import assess
from pgrain.backend.complain import complain, explain, explain_statement, provenance
from pgrain.backend.describe import cluster, describe, resembles
from pgrain.backend.doctor import doctor, settings_rows, worker_here
from pgrain.backend.forget import forget
from pgrain.backend.interventions import create_intervention, drop_intervention, edits_sql
from pgrain.backend.jobs import attach, cancel, import_weights, precompute, train
from pgrain.backend.keys import protect_keys
from pgrain.backend.models import (
    activate,
    alter_model,
    apply,
    create_model,
    detach,
    drop_model,
    revert,
)
from pgrain.backend.plan_repair import plan_repair
from pgrain.backend.predict import predict, predict_proba
from pgrain.backend.repair import complaints_hold, plan_for_repair, repair
from pgrain.backend.session import load as load_session
from pgrain.backend.session import load_model
from pgrain.backend.vectors import complaint_vector, rank
from pgrain.backend.watch import build as build_watch
from pgrain.backend.watch import load as load_watch
from pgrain.backend.watch import load_cells as load_watch_cells
from pgrain.backend.watch import unwatch, watch

__all__ = ["activate", "alter_model", "apply", "assess", "attach", "build_watch", "cancel",
           "cluster", "complain", "complaint_vector", "complaints_hold", "create_intervention",
           "create_model", "describe", "detach", "doctor", "drop_intervention", "drop_model",
           "edits_sql", "explain", "explain_statement", "forget", "import_weights", "load_model",
           "load_session", "load_watch", "load_watch_cells", "plan_for_repair", "plan_repair",
           "precompute", "predict", "predict_proba", "protect_keys", "provenance", "rank",
           "repair", "resembles", "revert", "settings_rows", "train", "unwatch", "watch",
           "worker_here"]

-- PUBLIC has nothing; roles get rights through pgrain.grant_usage. The worker's role has what its
-- jobs need, and reads training and inference tables only where their owners granted it.
REVOKE ALL ON ALL TABLES IN SCHEMA pgrain FROM PUBLIC;
REVOKE ALL ON ALL ROUTINES IN SCHEMA pgrain FROM PUBLIC;
GRANT USAGE ON SCHEMA pgrain TO pgrain_worker;
GRANT SELECT ON ALL TABLES IN SCHEMA pgrain TO pgrain_worker;
GRANT INSERT, UPDATE, DELETE ON pgrain.model_version, pgrain.version_chunk, pgrain.spectrum,
    pgrain.spectrum_chunk, pgrain.prediction_chunk, pgrain.job, pgrain.worker,
    pgrain.intervention_ready, pgrain.weights, pgrain.attachment_state TO pgrain_worker;
GRANT DELETE ON pgrain.training_edit, pgrain.intervention_value TO pgrain_worker;
GRANT INSERT ON pgrain.erasure TO pgrain_worker;
GRANT UPDATE (fitted) ON pgrain.intervention TO pgrain_worker;
GRANT INSERT, UPDATE, DELETE ON pgrain.watch_state, pgrain.watch_cell TO pgrain_worker;
GRANT DELETE ON pgrain.watch_note, pgrain.attachment_hint TO pgrain_worker;
GRANT INSERT ON pgrain.attachment_hint TO pgrain_worker;    -- when it drops what others may have
GRANT UPDATE (fact, tables, plain, note_new, note_old, shape) ON pgrain.watch TO pgrain_worker;
GRANT EXECUTE ON FUNCTION pgrain._tidy(), pgrain._forget_hints(oid[], boolean) TO pgrain_worker;
GRANT EXECUTE ON FUNCTION pgrain._watch_print(bigint), pgrain._watch_owner(bigint), pgrain._make_watch_functions(bigint),
    pgrain._arm_watch(bigint) TO pgrain_worker;
GRANT UPDATE (active_version) ON pgrain.model TO pgrain_worker;

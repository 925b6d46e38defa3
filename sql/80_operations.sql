-- For the DBA.

CREATE FUNCTION pgrain.doctor()
RETURNS TABLE (what text, ok boolean, detail text, hint text)
LANGUAGE plpython3u STABLE PARALLEL UNSAFE AS $python$
@BACKEND@
return backend.doctor(plpy)
$python$;
COMMENT ON FUNCTION pgrain.doctor IS 'one row a check of this installation';

CREATE FUNCTION pgrain.grant_usage(role name, admin boolean DEFAULT false)
RETURNS void LANGUAGE plpgsql VOLATILE STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    readers CONSTANT text := 'pgrain.settings, pgrain.sizes, pgrain.staleness,
        pgrain.models, pgrain.versions, pgrain.jobs, pgrain.progress,
        pgrain.workers, pgrain.attached, pgrain.edits, pgrain.interventions,
        pgrain.erasures, pgrain.watches';
    routine record;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = grant_usage.role) THEN
        RAISE EXCEPTION 'pgrain: role "%" does not exist', role USING ERRCODE = '42704';
    END IF;
    EXECUTE format('GRANT USAGE ON SCHEMA pgrain TO %I', role);
    EXECUTE format('GRANT SELECT ON %s TO %I', readers, role);
    FOR routine IN
        SELECT p.oid::regprocedure AS signature, p.proname, p.prokind
        FROM pg_catalog.pg_proc p WHERE p.pronamespace = 'pgrain'::regnamespace
    LOOP
        IF routine.proname IN ('predict', 'predict_proba', 'predict_batch', 'complain', 'provenance', 'explain', 'doctor',
                               '_complain', '_ranked', '_load_session', '_load_model', '_explain',
                               '_stamp_key', '_snapshot', '_worker_here', '_settings', '_predict_open', '_predict_next',
                               'complaint_vector', 'plan_repair', 'assess', 'describe',
                               'brightness', 'contrast', 'cluster', 'resembles',
                               '_load_watch', '_load_watch_cells', '_watch_print', '_watch_owner', '_watch_cut') THEN
            EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', routine.signature, role);
        ELSIF admin AND routine.proname IN ('create_model', 'alter_model', 'drop_model', 'activate', 'detach',
                                            'apply', 'revert', 'rank', 'create_intervention',
                                            'drop_intervention', 'edits_sql', 'cancel', 'forget',
                                            'unwatch', '_arm_watch', '_hint_at',
                                            'protect_keys', '_ensure_secret', '_drop_predictions',
                                            '_plan_repair', '_holds', '_hold_repair', '_leave') THEN
            EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', routine.signature, role);
        ELSIF admin AND routine.prokind = 'p' THEN
            EXECUTE format('GRANT EXECUTE ON PROCEDURE %s TO %I', routine.signature, role);
        END IF;
    END LOOP;
    IF admin THEN
        -- An admin manages models through these tables. A job reads a relation only where both
        -- the worker and who submitted the job may; registration and secret stay out of reach.
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON pgrain.model,
            pgrain.model_version, pgrain.attachment, pgrain.training_edit, pgrain.intervention
            TO %I', role);
        EXECUTE format('GRANT SELECT ON pgrain._version_edit TO %I', role);
        -- What expressions gave for rows that this role may not read is not for it to see.
        EXECUTE format('GRANT INSERT ON pgrain.intervention_value TO %I', role);
        EXECUTE format('GRANT SELECT, INSERT ON pgrain.repair_round TO %I', role);
        EXECUTE format('GRANT SELECT, INSERT, DELETE ON pgrain.protected_keys TO %I', role);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE (state, cancel_requested, message)
            ON pgrain.job TO %I', role);
        EXECUTE format('GRANT INSERT ON pgrain.weights TO %I', role);
        EXECUTE format('GRANT SELECT, INSERT, DELETE ON pgrain.watch TO %I', role);  -- their own
    END IF;
END $$;
COMMENT ON FUNCTION pgrain.grant_usage IS 'let a role predict and complain; admin: manage models too';

-- The secret of the digests: made once, by the first create_model, so that a restored dump keeps its own.
CREATE FUNCTION pgrain._ensure_secret() RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO pgrain.installation (secret)
    SELECT sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())
                  || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()))
    ON CONFLICT DO NOTHING
$$;

-- Stored predictions are written by the worker's role alone; a detach takes its relation's away.
CREATE FUNCTION pgrain._drop_predictions(model text, relation regclass) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH gone AS (
        DELETE FROM pgrain.prediction_chunk c USING pgrain.model_version v
        WHERE v.version = c.version AND v.model = $1 AND c.relation = $2 RETURNING c.seq, c.version)
    DELETE FROM pgrain.spectrum_chunk k USING pgrain.spectrum s, gone
    WHERE k.spectrum = s.spectrum AND s.version = gone.version AND k.kind = 'attached'
      AND k.seq = gone.seq;
    -- Values that others have too were stored once, maybe there: the worker looks at them again.
    INSERT INTO pgrain.attachment_hint (relation)
    SELECT a.relation FROM pgrain.attachment a WHERE a.model = $1 AND a.relation <> $2
$$;

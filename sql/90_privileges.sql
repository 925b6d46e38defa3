-- PUBLIC has nothing; roles get rights through pgrain.grant_usage. The worker's role has what its
-- jobs need, and reads training and inference tables only where their owners granted it.
REVOKE ALL ON ALL TABLES IN SCHEMA pgrain FROM PUBLIC;
REVOKE ALL ON ALL ROUTINES IN SCHEMA pgrain FROM PUBLIC;
-- What ALTER DEFAULT PRIVILEGES says for the tables and functions that whoever installs this makes
-- (a role for reporting that may read all of them) is not meant for the secret, weights and what the
-- worker alone calls. Of objects that this transaction has made: others may have been granted since.
DO $$
DECLARE
    given record;
BEGIN
    FOR given IN
        SELECT o.what, o.name, a.grantee FROM (
            SELECT 'pg_class'::regclass AS catalog, c.oid, c.relowner AS owner, c.relacl AS acl,
                   CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS what, c.oid::regclass::text AS name
            FROM pg_class c
            UNION ALL SELECT 'pg_proc'::regclass, p.oid, p.proowner, p.proacl, 'ROUTINE', p.oid::regprocedure::text
            FROM pg_proc p
            UNION ALL SELECT 'pg_namespace'::regclass, n.oid, n.nspowner, n.nspacl, 'SCHEMA', n.oid::regnamespace::text
            FROM pg_namespace n) AS o
        JOIN pg_depend d ON d.classid = o.catalog AND d.objid = o.oid AND d.deptype = 'e'
        JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND e.oid = d.refobjid,
        LATERAL (SELECT DISTINCT x.grantee FROM aclexplode(o.acl) x WHERE x.grantee <> o.owner) AS a
        WHERE e.extname = 'pgrain' AND age(d.xmin) <= 0 LOOP
        EXECUTE format('REVOKE ALL ON %s %s FROM %s CASCADE', given.what, given.name,
                       CASE given.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(given.grantee)) END);
    END LOOP;
END $$;
GRANT USAGE ON SCHEMA pgrain TO pgrain_worker;
GRANT SELECT ON ALL TABLES IN SCHEMA pgrain TO pgrain_worker;
GRANT INSERT, UPDATE, DELETE ON pgrain.model_version, pgrain.version_chunk, pgrain.spectrum,
    pgrain.spectrum_chunk, pgrain.prediction_chunk, pgrain.job, pgrain.worker,
    pgrain.intervention_ready, pgrain.weights, pgrain.attachment_state, pgrain.training_state,
    pgrain.attachment_problem TO pgrain_worker;
GRANT DELETE ON pgrain.training_edit, pgrain.intervention_value TO pgrain_worker;
GRANT INSERT ON pgrain.erasure TO pgrain_worker;
GRANT UPDATE (fitted) ON pgrain.intervention TO pgrain_worker;
GRANT INSERT, UPDATE, DELETE ON pgrain.watch_state, pgrain.watch_cell, pgrain.watch_problem TO pgrain_worker;
GRANT DELETE ON pgrain.watch_note, pgrain.attachment_hint TO pgrain_worker;
GRANT INSERT ON pgrain.attachment_hint TO pgrain_worker;    -- when it drops what others may have
GRANT UPDATE (fact, tables, plain, note_new, note_old, second, second_new, second_old, shape) ON pgrain.watch
    TO pgrain_worker;
GRANT EXECUTE ON FUNCTION pgrain._tidy(), pgrain._forget_hints(oid[], boolean) TO pgrain_worker;
GRANT EXECUTE ON FUNCTION pgrain._watch_print(bigint), pgrain._watch_owner(bigint), pgrain._make_watch_functions(bigint),
    pgrain._arm_watch(bigint), pgrain._watch_cut(bigint), pgrain._note_again(bigint) TO pgrain_worker;
GRANT UPDATE (active_version) ON pgrain.model TO pgrain_worker;
GRANT INSERT, UPDATE ON pgrain.watch_lock TO pgrain_worker;
GRANT EXECUTE ON FUNCTION pgrain._holder(text, text), pgrain._hold(text, text), pgrain._leave(text, text)
    TO pgrain_worker;

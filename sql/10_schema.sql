-- The schema and the worker's roles. A role belongs to the whole cluster, so it may be there already.
CREATE SCHEMA pgrain;
COMMENT ON SCHEMA pgrain IS 'pgrain: training rows behind a wrong query result';

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'pgrain_worker') THEN
        CREATE ROLE pgrain_worker LOGIN;
    END IF;
    -- As whom the worker reads users' tables: it may do nothing else, not even see pgrain's own.
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'pgrain_reader') THEN
        CREATE ROLE pgrain_reader NOLOGIN;
    END IF;
    GRANT pgrain_reader TO pgrain_worker;
EXCEPTION WHEN duplicate_object THEN NULL;  -- another database's CREATE EXTENSION came first
END $$;

-- Weights, projections, digests and keys are parameters of the worker's statements: with log_statement,
-- log_min_duration_statement or log_parameter_max_length_on_error they would all be in the server's log.
-- (What a superuser has set for the role stays.)
DO $$
DECLARE
    setting text;
BEGIN
    FOREACH setting IN ARRAY '{log_parameter_max_length, log_parameter_max_length_on_error}'::text[] LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_db_role_setting s, unnest(s.setconfig) AS c (given)
                       WHERE s.setrole = 'pgrain_worker'::regrole AND s.setdatabase = 0
                           AND split_part(given, '=', 1) = setting) THEN
            EXECUTE format('ALTER ROLE pgrain_worker SET %I = 0', setting);
        END IF;
    END LOOP;
END $$;

-- Fails at once where this server is older than what the scripts need, or the database is in another
-- encoding than UTF8: what a text is, as bytes, is UTF-8 for the worker, and SQL_ASCII converts nothing.
DO $$
BEGIN
    IF current_setting('server_version_num')::integer < 150000 THEN
        RAISE EXCEPTION 'pgrain: PostgreSQL 15 or later is needed'
            USING ERRCODE = 'feature_not_supported';
    END IF;
    IF current_setting('server_encoding') <> 'UTF8' THEN
        RAISE EXCEPTION 'pgrain: the encoding of this database is %, not UTF8', current_setting('server_encoding')
            USING ERRCODE = 'feature_not_supported',
            HINT = 'CREATE DATABASE ... TEMPLATE template0 ENCODING ''UTF8'', and copy it with pg_dump.';
    END IF;
END $$;

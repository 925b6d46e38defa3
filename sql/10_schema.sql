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

-- Fails at once where this server is older than what the scripts need.
DO $$
BEGIN
    IF current_setting('server_version_num')::integer < 150000 THEN
        RAISE EXCEPTION 'pgrain: PostgreSQL 15 or later is needed'
            USING ERRCODE = 'feature_not_supported';
    END IF;
END $$;

-- Functions that run a caller's query. The backend undoes whatever was written and says so (spi.py).
-- Where a function may still be told to be read-only, which PostgreSQL 16 took away, the attempt is
-- an error already.
DO $$
DECLARE f regprocedure;
BEGIN
    IF pg_catalog.current_setting('server_version_num')::int < 160000 THEN
        FOR f IN SELECT oid FROM pg_catalog.pg_proc
                 WHERE pronamespace = 'pgrain'::pg_catalog.regnamespace
                   AND proname IN ('_complain', 'provenance', 'explain', 'complaint_vector',
                                   'plan_repair', '_plan_repair', '_holds', 'assess',
                                   'predict_batch') LOOP
            EXECUTE pg_catalog.format('ALTER FUNCTION %s SET transaction_read_only = on', f);
        END LOOP;
    END IF;
END $$;

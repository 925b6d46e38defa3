-- Is a complaint useful, and if not, what would be.

CREATE FUNCTION pgrain.assess(query text, complaint text[])
RETURNS TABLE (check_name text, value float8, verdict text, hint text)
LANGUAGE plpython3u STABLE STRICT PARALLEL UNSAFE COST 1000000 ROWS 10
SET plan_cache_mode = force_generic_plan SET enable_nestloop = on AS $python$
@BACKEND@
return backend.assess(plpy, query, complaint)
$python$;

CREATE FUNCTION pgrain.assess(query text, complaint text)
RETURNS TABLE (check_name text, value float8, verdict text, hint text)
LANGUAGE plpython3u STABLE STRICT PARALLEL UNSAFE COST 1000000 ROWS 10
SET plan_cache_mode = force_generic_plan SET enable_nestloop = on AS $python$
@BACKEND@
return backend.assess(plpy, query, [complaint])
$python$;

COMMENT ON FUNCTION pgrain.assess(text, text) IS
    'is this complaint useful: one row a finding, in words, with what to do';
COMMENT ON FUNCTION pgrain.assess(text, text[]) IS
    'the same for several complaints that hold together';

-- As in 60_complain.sql: nothing that the caller's query writes stays.
DO $$
DECLARE f regprocedure;
BEGIN
    IF pg_catalog.current_setting('server_version_num')::int < 160000 THEN
        FOR f IN SELECT oid FROM pg_catalog.pg_proc
                 WHERE pronamespace = 'pgrain'::pg_catalog.regnamespace
                   AND proname = 'assess' LOOP
            EXECUTE pg_catalog.format('ALTER FUNCTION %s SET transaction_read_only = on', f);
        END LOOP;
    END IF;
END $$;

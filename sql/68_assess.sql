-- Is a complaint useful, and if not, what would be.

CREATE FUNCTION pgrain.assess(query text, complaint text[])
RETURNS TABLE (check_name text, value float8, verdict text, hint text)
LANGUAGE plpython3u STABLE STRICT PARALLEL UNSAFE COST 1000000 ROWS 10
SET plan_cache_mode = force_generic_plan SET enable_nestloop = on SET jit = off AS $python$
@BACKEND@
return backend.assess(plpy, query, complaint)
$python$;

CREATE FUNCTION pgrain.assess(query text, complaint text)
RETURNS TABLE (check_name text, value float8, verdict text, hint text)
LANGUAGE plpython3u STABLE STRICT PARALLEL UNSAFE COST 1000000 ROWS 10
SET plan_cache_mode = force_generic_plan SET enable_nestloop = on SET jit = off AS $python$
@BACKEND@
return backend.assess(plpy, query, [complaint])
$python$;

COMMENT ON FUNCTION pgrain.assess(text, text) IS
    'is this complaint useful: one row a finding, in words, with what to do';
COMMENT ON FUNCTION pgrain.assess(text, text[]) IS
    'the same for several complaints that hold together';

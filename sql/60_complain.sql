-- Complaints and provenance. STABLE, so that all they run shares one snapshot; nothing that a
-- caller's query writes stays (see the end); no search_path of their own, for the caller's names
-- must resolve as in the query itself.

CREATE FUNCTION pgrain.complain(query text, complaint text[], top_k integer DEFAULT 100,
                                intervention text DEFAULT 'delete', options jsonb DEFAULT '{}')
RETURNS TABLE (rank integer, model text, train_id bigint, train_key text, intervention text,
               score float8, effect float8)
LANGUAGE plpython3u STABLE STRICT PARALLEL UNSAFE COST 100000 ROWS 100
SET plan_cache_mode = force_generic_plan SET enable_nestloop = on AS $python$
@BACKEND@
return backend.complain(plpy, query, complaint, top_k, intervention, options)
$python$;

CREATE FUNCTION pgrain.complain(query text, complaint text, top_k integer DEFAULT 100,
                                intervention text DEFAULT 'delete', options jsonb DEFAULT '{}')
RETURNS TABLE (rank integer, model text, train_id bigint, train_key text, intervention text,
               score float8, effect float8)
LANGUAGE plpython3u STABLE STRICT PARALLEL UNSAFE COST 100000 ROWS 100
SET plan_cache_mode = force_generic_plan SET enable_nestloop = on AS $python$
@BACKEND@
return backend.complain(plpy, query, [complaint], top_k, intervention, options)
$python$;

COMMENT ON FUNCTION pgrain.complain(text, text, integer, text, jsonb) IS
    'the training rows most suspected of what the complaint says about the query''s result';
COMMENT ON FUNCTION pgrain.complain(text, text[], integer, text, jsonb) IS
    'the same for several complaints that hold together';

CREATE FUNCTION pgrain.provenance(query text, include_absent boolean DEFAULT false)
RETURNS TABLE (output_row integer, output jsonb, output_column text, value float8, relaxed float8,
               variables bigint)
LANGUAGE plpython3u STABLE STRICT PARALLEL UNSAFE COST 100000 ROWS 100
SET plan_cache_mode = force_generic_plan SET enable_nestloop = on AS $python$
@BACKEND@
return backend.provenance(plpy, query, include_absent)
$python$;
COMMENT ON FUNCTION pgrain.provenance IS
    'each model-dependent cell of a query''s result: its value, its expectation, how many predictions it rests on';

CREATE FUNCTION pgrain.explain(query text) RETURNS SETOF text
LANGUAGE plpython3u STABLE STRICT PARALLEL UNSAFE COST 100000 ROWS 20
SET plan_cache_mode = force_generic_plan SET enable_nestloop = on AS $python$
@BACKEND@
return backend.explain(plpy, query)
$python$;
COMMENT ON FUNCTION pgrain.explain IS
    'how a query''s provenance is computed, operator by operator, and PostgreSQL''s own plan';

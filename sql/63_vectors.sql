-- A complaint handed over: from whoever has the inference data to whoever has the training data.

CREATE FUNCTION pgrain.complaint_vector(query text, complaint text[]) RETURNS bytea
LANGUAGE plpython3u STABLE STRICT PARALLEL UNSAFE COST 100000
SET plan_cache_mode = force_generic_plan SET enable_nestloop = on SET jit = off AS $python$
@BACKEND@
return backend.complaint_vector(plpy, query, complaint)
$python$;

CREATE FUNCTION pgrain.complaint_vector(query text, complaint text) RETURNS bytea
LANGUAGE plpython3u STABLE STRICT PARALLEL UNSAFE COST 100000
SET plan_cache_mode = force_generic_plan SET enable_nestloop = on SET jit = off AS $python$
@BACKEND@
return backend.complaint_vector(plpy, query, [complaint])
$python$;

COMMENT ON FUNCTION pgrain.complaint_vector(text, text) IS
    'the complaint as a few numbers, without the query and its data, for pgrain.rank elsewhere';
COMMENT ON FUNCTION pgrain.complaint_vector(text, text[]) IS
    'the same for several complaints that hold together';

CREATE FUNCTION pgrain.rank(model text, vector bytea, top_k integer DEFAULT 100,
                            intervention text DEFAULT 'delete', options jsonb DEFAULT '{}')
RETURNS TABLE (rank integer, model text, train_id bigint, train_key text, intervention text,
               score float8, effect float8)
LANGUAGE plpython3u STABLE STRICT PARALLEL UNSAFE COST 100000 ROWS 100 AS $python$
@BACKEND@
return backend.rank(plpy, model, vector, top_k, intervention, options)
$python$;
COMMENT ON FUNCTION pgrain.rank IS
    'the ranking that a complaint vector asks for; for those who may read the training table';

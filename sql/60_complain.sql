-- Complaints and provenance. STABLE, so that all they run shares one snapshot; nothing that a
-- caller's query writes stays (see the end); no search_path of their own, for the caller's names
-- must resolve as in the query itself.

-- A row a model, its columns as the texts of arrays (wire/ranked.py): PostgreSQL takes a hundred rows
-- of an array apart in the time in which PL/Python returns ten.
CREATE FUNCTION pgrain._complain(query text, complaint text[], top_k integer, intervention text,
                                 options jsonb)
RETURNS TABLE (model text, ids text, keys text, of_all text, of_each text, scores text, effects text)
LANGUAGE plpython3u STABLE STRICT PARALLEL UNSAFE COST 100000 ROWS 1
SET plan_cache_mode = force_generic_plan SET enable_nestloop = on SET jit = off AS $python$
@BACKEND@
return backend.complain(plpy, query, complaint, top_k, intervention, options)
$python$;

CREATE FUNCTION pgrain._ranked(query text, complaint text[], top_k integer, wanted text, options jsonb)
RETURNS TABLE (rank integer, model text, train_id bigint, train_key text, intervention text,
               score float8, effect float8)
LANGUAGE plpgsql STABLE PARALLEL UNSAFE COST 100000 ROWS 100 AS $$   -- plans are kept in plpgsql
#variable_conflict use_column
BEGIN
    IF $1 IS NULL OR $2 IS NULL OR $3 IS NULL OR $4 IS NULL OR $5 IS NULL THEN
        RAISE NOTICE 'an argument of complain is null, so there are no rows';
        RETURN;
    END IF;
    RETURN QUERY
    SELECT r.n::pg_catalog.int4, m.model, r.id, coalesce(r.key, r.id::pg_catalog.text),
           coalesce(m.of_all, r.of_each), r.score, r.effect
    FROM pgrain._complain($1, $2, $3, $4, $5) AS m,
         ROWS FROM (pg_catalog.unnest(m.scores::pg_catalog.float8[]),
                    pg_catalog.unnest(m.effects::pg_catalog.float8[]),
                    pg_catalog.unnest(m.ids::pg_catalog.int8[]),
                    pg_catalog.unnest(m.keys::pg_catalog.text[]),
                    pg_catalog.unnest(m.of_each::pg_catalog.text[]))
         WITH ORDINALITY AS r (score, effect, id, key, of_each, n);
END $$;

-- These are dissolved into the statements that call them, which is why they are not STRICT and take no
-- settings. A null gives no rows, and a notice.
CREATE FUNCTION pgrain.complain(query text, complaint text[], top_k integer DEFAULT 100,
                                intervention text DEFAULT 'delete', options jsonb DEFAULT '{}')
RETURNS TABLE (rank integer, model text, train_id bigint, train_key text, intervention text,
               score float8, effect float8)
LANGUAGE sql STABLE PARALLEL UNSAFE COST 100000 ROWS 100 AS $$
    SELECT r.rank, r.model, r.train_id, r.train_key, r.intervention, r.score, r.effect
    FROM pgrain._ranked($1, $2, $3, $4, $5) AS r $$;

CREATE FUNCTION pgrain.complain(query text, complaint text, top_k integer DEFAULT 100,
                                intervention text DEFAULT 'delete', options jsonb DEFAULT '{}')
RETURNS TABLE (rank integer, model text, train_id bigint, train_key text, intervention text,
               score float8, effect float8)
LANGUAGE sql STABLE PARALLEL UNSAFE COST 100000 ROWS 100 AS $$
    SELECT r.rank, r.model, r.train_id, r.train_key, r.intervention, r.score, r.effect
    FROM pgrain._ranked($1, CASE WHEN $2 IS NOT NULL THEN ARRAY[$2] END, $3, $4, $5) AS r $$;

COMMENT ON FUNCTION pgrain.complain(text, text, integer, text, jsonb) IS
    'the training rows most suspected of what the complaint says about the query''s result';
COMMENT ON FUNCTION pgrain.complain(text, text[], integer, text, jsonb) IS
    'the same for several complaints that hold together';

CREATE FUNCTION pgrain.provenance(query text, include_absent boolean DEFAULT false)
RETURNS TABLE (output_row integer, output jsonb, output_column text, value float8, relaxed float8,
               variables bigint)
LANGUAGE plpython3u STABLE STRICT PARALLEL UNSAFE COST 100000 ROWS 100
SET plan_cache_mode = force_generic_plan SET enable_nestloop = on SET jit = off AS $python$
@BACKEND@
return backend.provenance(plpy, query, include_absent)
$python$;
COMMENT ON FUNCTION pgrain.provenance IS
    'each model-dependent cell of a query''s result: its value, its expectation, how many predictions it rests on';

CREATE FUNCTION pgrain.explain(query text) RETURNS SETOF text
LANGUAGE plpython3u STABLE STRICT PARALLEL UNSAFE COST 100000 ROWS 20
SET plan_cache_mode = force_generic_plan SET enable_nestloop = on SET jit = off AS $python$
@BACKEND@
return backend.explain(plpy, query)
$python$;
COMMENT ON FUNCTION pgrain.explain IS
    'how a query''s provenance is computed, operator by operator, and PostgreSQL''s own plan';

-- From a complaint to the edits that are predicted to cure it.

CREATE FUNCTION pgrain.plan_repair(query text, complaint text[],
                                   intervention text DEFAULT 'delete', options jsonb DEFAULT '{}')
RETURNS TABLE (rank integer, train_id bigint, train_key text, intervention text,
               predicted float8, low float8, high float8)
LANGUAGE plpython3u STABLE STRICT PARALLEL UNSAFE COST 1000000 ROWS 100
SET plan_cache_mode = force_generic_plan SET enable_nestloop = on SET jit = off AS $python$
@BACKEND@
return backend.plan_repair(plpy, query, complaint, intervention, options)
$python$;

CREATE FUNCTION pgrain.plan_repair(query text, complaint text,
                                   intervention text DEFAULT 'delete', options jsonb DEFAULT '{}')
RETURNS TABLE (rank integer, train_id bigint, train_key text, intervention text,
               predicted float8, low float8, high float8)
LANGUAGE plpython3u STABLE STRICT PARALLEL UNSAFE COST 1000000 ROWS 100
SET plan_cache_mode = force_generic_plan SET enable_nestloop = on SET jit = off AS $python$
@BACKEND@
return backend.plan_repair(plpy, query, [complaint], intervention, options)
$python$;

COMMENT ON FUNCTION pgrain.plan_repair(text, text, text, jsonb) IS
    'the shortest prefix of the ranking that is predicted to cure the complaint, with the value after each edit';
COMMENT ON FUNCTION pgrain.plan_repair(text, text[], text, jsonb) IS
    'the same for several complaints that hold together';

-- The loop: plan, apply, train, run the query, until the complaint holds.

CREATE TABLE pgrain.repair_round (
    name           text NOT NULL,
    round          integer NOT NULL,
    model          text NOT NULL REFERENCES pgrain.model ON DELETE CASCADE ON UPDATE CASCADE,
    query          text NOT NULL,
    complaint      text[] NOT NULL,
    intervention   text NOT NULL,
    rows_edited    integer NOT NULL,
    before         float8,           -- value, when the round began, of the cell that was violated first when
                                     -- the repair began (of a label or row: 1 if it is shown, is there)
    predicted      float8,           -- after the round's edits, as planned
    low            float8,
    high           float8,
    actual         float8,           -- after training
    holds          boolean NOT NULL,
    seconds        float8 NOT NULL,
    version_before bigint,
    version        bigint,
    made_by        name NOT NULL DEFAULT current_user,
    finished_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (name, round)
);
COMMENT ON TABLE pgrain.repair_round IS
    'every round of every repair: what was edited, what was predicted, what came of it';
SELECT pg_catalog.pg_extension_config_dump('pgrain.repair_round', '');

-- What `repair` asks in between, with the settings that a caller's query needs: the plan with its
-- model, and whether complaints hold; both about one cell, chosen when the repair began.
CREATE FUNCTION pgrain._plan_repair(query text, complaint text[], intervention text, options jsonb, cell jsonb)
RETURNS jsonb LANGUAGE plpython3u STABLE STRICT PARALLEL UNSAFE
SET plan_cache_mode = force_generic_plan SET enable_nestloop = on SET jit = off AS $python$
@BACKEND@
return backend.plan_for_repair(plpy, query, complaint, intervention, options, cell)
$python$;

CREATE FUNCTION pgrain._holds(query text, complaint text[], cell jsonb)
RETURNS jsonb LANGUAGE plpython3u STABLE STRICT PARALLEL UNSAFE
SET plan_cache_mode = force_generic_plan SET enable_nestloop = on SET jit = off AS $python$
@BACKEND@
return backend.complaints_hold(plpy, query, complaint, cell)
$python$;

CREATE PROCEDURE pgrain.repair(name text, query text, complaint text[],
                               intervention text DEFAULT 'delete', options jsonb DEFAULT '{}')
LANGUAGE plpython3u AS $python$
@BACKEND@
backend.repair(plpy, name, query, complaint, intervention, options)
$python$;

CREATE PROCEDURE pgrain.repair(name text, query text, complaint text,
                               intervention text DEFAULT 'delete', options jsonb DEFAULT '{}')
LANGUAGE plpython3u AS $python$
@BACKEND@
backend.repair(plpy, name, query, None if complaint is None else [complaint], intervention, options)
$python$;

COMMENT ON PROCEDURE pgrain.repair(text, text, text, text, jsonb) IS
    'edit, train and ask again until the complaint holds or the budget is spent; rounds in pgrain.repair_round';
COMMENT ON PROCEDURE pgrain.repair(text, text, text[], text, jsonb) IS
    'the same for several complaints that hold together';

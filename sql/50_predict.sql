-- Predictions. STABLE, never IMMUTABLE: a plan or an index must not keep them beyond a retraining.
-- PARALLEL UNSAFE, since PL/Python that reaches SPI under a parallel plan can stop a PostgreSQL 15.
-- Bodies begin with a quick way for a value that comes where it came the last time (cli/install.py).

CREATE FUNCTION pgrain.predict(model text, x bytea) RETURNS text
LANGUAGE plpython3u STABLE STRICT PARALLEL UNSAFE COST 100 AS $python$
@QUICK@
@BACKEND@
SD["known"] = backend.known()
return backend.predict(plpy, model, x, "bytea")
$python$;

CREATE FUNCTION pgrain.predict(model text, x text) RETURNS text
LANGUAGE plpython3u STABLE STRICT PARALLEL UNSAFE COST 100 AS $python$
@QUICK@
@BACKEND@
SD["known"] = backend.known()
return backend.predict(plpy, model, x, "text")
$python$;

CREATE FUNCTION pgrain.predict(model text, x float8[]) RETURNS text
LANGUAGE plpython3u STABLE STRICT PARALLEL UNSAFE COST 100 AS $python$
@QUICK ARRAYS@
@BACKEND@
SD["known"] = backend.known()
return backend.predict(plpy, model, x, "float8")
$python$;

CREATE FUNCTION pgrain.predict(model text, x jsonb) RETURNS text
LANGUAGE plpython3u STABLE STRICT PARALLEL UNSAFE COST 100 AS $python$
@QUICK@
@BACKEND@
SD["known"] = backend.known()
return backend.predict(plpy, model, x, "columns")
$python$;

-- PL/Python cannot take a record, PL/pgSQL can; to_jsonb knows tables, subqueries and ROW().
CREATE FUNCTION pgrain.predict(model text, x record) RETURNS text
LANGUAGE plpgsql STABLE STRICT PARALLEL UNSAFE COST 100 AS $$
BEGIN
    RETURN pgrain.predict(model, pg_catalog.to_jsonb(x));
END $$;

CREATE FUNCTION pgrain.predict_proba(model text, x bytea) RETURNS float8[]
LANGUAGE plpython3u STABLE STRICT PARALLEL UNSAFE COST 100 AS $python$
@BACKEND@
return backend.predict_proba(plpy, model, x, "bytea")
$python$;

CREATE FUNCTION pgrain.predict_proba(model text, x text) RETURNS float8[]
LANGUAGE plpython3u STABLE STRICT PARALLEL UNSAFE COST 100 AS $python$
@BACKEND@
return backend.predict_proba(plpy, model, x, "text")
$python$;

CREATE FUNCTION pgrain.predict_proba(model text, x float8[]) RETURNS float8[]
LANGUAGE plpython3u STABLE STRICT PARALLEL UNSAFE COST 100 AS $python$
@BACKEND@
return backend.predict_proba(plpy, model, x, "float8")
$python$;

CREATE FUNCTION pgrain.predict_proba(model text, x jsonb) RETURNS float8[]
LANGUAGE plpython3u STABLE STRICT PARALLEL UNSAFE COST 100 AS $python$
@BACKEND@
return backend.predict_proba(plpy, model, x, "columns")
$python$;

CREATE FUNCTION pgrain.predict_proba(model text, x record) RETURNS float8[]
LANGUAGE plpgsql STABLE STRICT PARALLEL UNSAFE COST 100 AS $$
BEGIN
    RETURN pgrain.predict_proba(model, pg_catalog.to_jsonb(x));
END $$;

-- The caller's query runs with the caller's rights; nothing that it writes stays (sql/82_read_only.sql).
-- A block of rows after the other, so that memory is taken for one; PostgreSQL keeps what is returned.
CREATE FUNCTION pgrain._predict_open(model text, query text) RETURNS bigint
LANGUAGE plpython3u STABLE STRICT PARALLEL UNSAFE AS $python$
@BACKEND@
return backend.predict_open(plpy, model, query)
$python$;

-- Columns as the texts of arrays, as _complain has them: PL/Python would turn each number into a text of
-- its own, and PostgreSQL that into a number.
CREATE FUNCTION pgrain._predict_next(call bigint)
RETURNS TABLE (keys text, labels text, probabilities text)
LANGUAGE plpython3u STABLE STRICT PARALLEL UNSAFE COST 100000 ROWS 1 AS $python$
@BACKEND@
return backend.predict_next(plpy, call)
$python$;

CREATE FUNCTION pgrain.predict_batch(model text, query text)
RETURNS TABLE (key text, label text, probabilities float8[])
LANGUAGE plpgsql STABLE STRICT PARALLEL UNSAFE COST 100000 ROWS 10000 AS $$
DECLARE
    call bigint;
    done boolean := false;
BEGIN
    call := pgrain._predict_open(model, query);
    LOOP
        RETURN QUERY SELECT r.key, r.label, r.p::pg_catalog.float4[]::pg_catalog.float8[]
            FROM pgrain._predict_next(call) AS b,
                 ROWS FROM (pg_catalog.unnest(b.keys::pg_catalog.text[]),
                            pg_catalog.unnest(b.labels::pg_catalog.text[]),
                            pg_catalog.unnest(b.probabilities::pg_catalog.text[])) AS r (key, label, p);
        EXIT WHEN NOT FOUND;
    END LOOP;
    -- Undoes whatever functions of the query did beside writing, which is an error already: settings,
    -- notifications, locks. What has been returned stays.
    done := true;
    RAISE SQLSTATE 'PGR00';
EXCEPTION WHEN SQLSTATE 'PGR00' THEN
    IF NOT done THEN RAISE; END IF;
END $$;
COMMENT ON FUNCTION pgrain.predict_batch IS
    'key, class and probabilities for each row of a query that returns a key, then the features';

COMMENT ON FUNCTION pgrain.predict(text, bytea) IS 'the class that the active version of a model predicts';
COMMENT ON FUNCTION pgrain.predict(text, text) IS 'the class that the active version of a model predicts';
COMMENT ON FUNCTION pgrain.predict(text, float8[]) IS 'the class that the active version of a model predicts';
COMMENT ON FUNCTION pgrain.predict(text, jsonb) IS 'the class that the active version of a model predicts';
COMMENT ON FUNCTION pgrain.predict(text, record) IS 'the class that the active version of a model predicts';
COMMENT ON FUNCTION pgrain.predict_proba(text, bytea) IS 'the probability of each class, in the order of pgrain.models.classes';
COMMENT ON FUNCTION pgrain.predict_proba(text, text) IS 'the probability of each class, in the order of pgrain.models.classes';
COMMENT ON FUNCTION pgrain.predict_proba(text, float8[]) IS 'the probability of each class, in the order of pgrain.models.classes';
COMMENT ON FUNCTION pgrain.predict_proba(text, jsonb) IS 'the probability of each class, in the order of pgrain.models.classes';
COMMENT ON FUNCTION pgrain.predict_proba(text, record) IS 'the probability of each class, in the order of pgrain.models.classes';

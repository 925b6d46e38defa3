-- What a session needs from tables that its role cannot read. These functions put it into the
-- process's memory and return nothing, so that neither secret nor predictions appear in SQL.

CREATE FUNCTION pgrain._load_session() RETURNS void
LANGUAGE plpython3u STABLE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $python$
@BACKEND@
backend.load_session(plpy)
$python$;

CREATE FUNCTION pgrain._load_model(model text, predictions boolean) RETURNS void
LANGUAGE plpython3u STABLE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $python$
@BACKEND@
backend.load_model(plpy, model, predictions)
$python$;

-- EXPLAIN is refused in a STABLE function, hence this VOLATILE one. It runs as the caller.
CREATE FUNCTION pgrain._explain(query text, format text) RETURNS text
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $python$
@BACKEND@
return backend.explain_statement(plpy, query, format)
$python$;

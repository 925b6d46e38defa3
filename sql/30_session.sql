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

-- Under which key the worker may remember tuple stamps of a column (provenance/stamps.py), and the
-- table's full name. VOLATILE, for a snapshot of its own: the caller's may be older than the lock
-- that EXPLAIN has taken; where it is the whole transaction's, there is no key. Runs as the caller,
-- in whose search_path the relation's name means what it means in the query.
CREATE FUNCTION pgrain._stamp_key(relation text, "column" name)
RETURNS TABLE (key text, "table" text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE AS $$   -- plans are kept in plpgsql, not in sql
BEGIN RETURN QUERY
    SELECT pg_catalog.concat_ws(':', c.oid, c.reltablespace,
                                pg_catalog.pg_relation_filenode(c.oid), a.attnum),
           pg_catalog.format('%I.%I', n.nspname, c.relname)
    FROM pg_catalog.pg_class AS c
    JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid OPERATOR(pg_catalog.=) c.oid
        AND a.attname OPERATOR(pg_catalog.=) $2
    JOIN pg_catalog.pg_am AS m ON m.oid OPERATOR(pg_catalog.=) c.relam
    WHERE c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass($1)::pg_catalog.oid
      AND c.relkind OPERATOR(pg_catalog.=) 'r' AND NOT c.relhassubclass
      AND c.relpersistence OPERATOR(pg_catalog.=) ANY ('{p,u}'::pg_catalog."char"[])
      AND m.amname OPERATOR(pg_catalog.=) 'heap'::pg_catalog.name
      -- bytea, text, varchar, jsonb, float8[]: nobody can change how these are read
      AND a.atttypid OPERATOR(pg_catalog.=) ANY ('{17,25,1043,3802,1022}'::pg_catalog.oid[])
      AND a.attnum OPERATOR(pg_catalog.>) 0::pg_catalog.int2
      AND pg_catalog.has_table_privilege(c.oid, 'SELECT')
      AND pg_catalog.current_setting('transaction_isolation') OPERATOR(pg_catalog.=)
          'read committed';
END $$;

-- What has been committed by now, not when the caller's statement began: VOLATILE, as above.
CREATE FUNCTION pgrain._snapshot() RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN RETURN pg_current_snapshot()::text; END $$;

-- EXPLAIN is refused in a STABLE function, hence this VOLATILE one. It runs as the caller.
CREATE FUNCTION pgrain._explain(query text, format text) RETURNS text
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $python$
@BACKEND@
return backend.explain_statement(plpy, query, format)
$python$;

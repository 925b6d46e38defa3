-- Who is at what: jobs, attached relations, watches that are computed, repairs. Not by advisory locks:
-- any role may take those, of any number, and would hold a worker up as long as it likes. Rows here
-- are made by those alone who may do what they stand for.

CREATE TABLE pgrain.held (
    what    text NOT NULL CHECK (what IN ('job', 'relation', 'watch', 'repair')),
    name    text NOT NULL,
    pid     integer NOT NULL,
    started timestamptz NOT NULL,    -- when that process began: their numbers come again
    PRIMARY KEY (what, name)
);
COMMENT ON TABLE pgrain.held IS 'which process is at a job, a relation, a watch or a repair; a row counts as long as the process lives';

-- The process that is at it, if there is one.
CREATE FUNCTION pgrain._holder(what text, name text) RETURNS integer
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN RETURN (
    SELECT h.pid FROM pgrain.held h, LATERAL pg_stat_get_activity(h.pid) AS a
    WHERE h.what = $1 AND h.name = $2 AND a.pid = h.pid AND a.backend_start = h.started);
END $$;

-- Takes it for this process, in a transaction of its own or nobody else knows; false where a process
-- has it that lives, this one included. What a process had when it ended needs no tidying up.
CREATE FUNCTION pgrain._hold(what text, name text) RETURNS boolean
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO pgrain.held AS h (what, name, pid, started)
    SELECT $1, $2, a.pid, a.backend_start FROM pg_stat_get_activity(pg_backend_pid()) AS a
    ON CONFLICT ON CONSTRAINT held_pkey DO UPDATE SET pid = excluded.pid, started = excluded.started
    WHERE NOT EXISTS (SELECT FROM pg_stat_get_activity(h.pid) AS a
                      WHERE a.pid = h.pid AND a.backend_start = h.started);
    RETURN FOUND;
END $$;

-- Gives up what this process has.
CREATE FUNCTION pgrain._leave(what text, name text) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM pgrain.held h WHERE h.what = $1 AND h.name = $2 AND h.pid = pg_backend_pid();
END $$;

-- For admins, who may repair any model and hold up nothing else.
CREATE FUNCTION pgrain._hold_repair(model text) RETURNS boolean
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN RETURN pgrain._hold('repair', model); END $$;

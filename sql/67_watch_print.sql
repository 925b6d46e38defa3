-- What tells that the state of a watch may not be right any more (68_watch.sql, docs/dev/watches.md).

-- Whether partitions have their columns in other places: added in another order, or some were dropped.
-- (A row that is routed there is in transition tables as it came, before what is generated was.)
CREATE FUNCTION pgrain._unlike_partitions(relation oid) RETURNS boolean
LANGUAGE plpgsql STABLE STRICT PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN RETURN (
    SELECT count(DISTINCT columns) > 1 FROM (
        SELECT string_agg(CASE WHEN a.attisdropped THEN format('%s%s', a.attlen, a.attalign)
                               ELSE quote_ident(a.attname) END, ',' ORDER BY a.attnum) AS columns
        FROM pg_partition_tree(relation) AS p JOIN pg_attribute a ON a.attrelid = p.relid AND a.attnum > 0
        GROUP BY p.relid) AS parts);
END $$;

-- The tables that can't be watched whatever triggers they have, and why; `tree`: all tables of the watch.
-- It is dissolved into the statements that ask, hence the names in full.
CREATE FUNCTION pgrain._unwatchable(tree oid[]) RETURNS TABLE (relation oid, reason text)
LANGUAGE sql STABLE PARALLEL UNSAFE AS $$
    SELECT u.oid, u.reason FROM (SELECT c.oid, CASE
        WHEN c.relkind OPERATOR(pg_catalog.<>) ALL ('{r,p}') OR c.relpersistence OPERATOR(pg_catalog.=) 't'
            THEN 'Changes are noted by triggers on ordinary and partitioned tables.'
        WHEN c.relrowsecurity
            THEN 'It has row security, and a watch would show its readers the same rows.'
        WHEN EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhrelid OPERATOR(pg_catalog.=) c.oid
                     AND i.inhparent OPERATOR(pg_catalog.<>) ALL ($1) AND NOT i.inhdetachpending)
            THEN 'It is a partition or a child of another table: statements on that one change it '
                 'without firing its triggers.'
        -- (LIMIT: by the index, not a hash of all there are)
        WHEN (SELECT true FROM pg_catalog.pg_subscription_rel s WHERE s.srrelid OPERATOR(pg_catalog.=) c.oid LIMIT 1)
            THEN 'A subscription writes to it, without firing statement triggers.'
        WHEN EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid OPERATOR(pg_catalog.=) c.oid
                     AND a.attcollation OPERATOR(pg_catalog.>=) 16384
                     AND (SELECT NOT l.collisdeterministic FROM pg_catalog.pg_collation l
                          WHERE l.oid OPERATOR(pg_catalog.=) a.attcollation))   -- PostgreSQL's own are deterministic
            THEN 'A column has a nondeterministic collation.'
        WHEN c.relkind OPERATOR(pg_catalog.=) 'p' AND EXISTS (
                SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid OPERATOR(pg_catalog.=) c.oid
                AND a.attgenerated OPERATOR(pg_catalog.<>) '') AND pgrain._unlike_partitions(c.oid)
            THEN 'It has a generated column, and a partition with its columns in other places: PostgreSQL shows '
                 'triggers NULL for what is generated there.'
        END AS reason
    FROM pg_catalog.pg_class c WHERE c.oid OPERATOR(pg_catalog.=) ANY ($1)) AS u
    WHERE u.reason IS NOT NULL;
$$;

-- Names these tables, those above them and all below those. A note has the one of its statement, a
-- state that of its snapshot: rows that came while another partition was there for a while do not count.
-- (One way down goes by the snapshot, as the rows of old statements do, the other by the present.)
CREATE FUNCTION pgrain._watch_tree(relations regclass[]) RETURNS text
LANGUAGE plpgsql STABLE STRICT PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off
SET enable_mergejoin = off AS $$
BEGIN RETURN (
    WITH RECURSIVE above (oid) AS (
        SELECT unnest($1)::oid UNION
        SELECT i.inhparent FROM above JOIN pg_inherits i ON i.inhrelid = above.oid),
    below (oid) AS (
        SELECT oid FROM above UNION
        SELECT i.inhrelid FROM below JOIN pg_inherits i ON i.inhparent = below.oid)
    SELECT md5(string_agg(oid::text, ',' ORDER BY oid)) FROM (
        SELECT oid FROM below UNION
        -- (as an array, of which few members are expected: else room is made for many)
        SELECT unnest(ARRAY(SELECT p.relid::oid FROM pg_partition_tree(above.oid) AS p)) FROM above) AS parts);
END $$;

-- When the server began anew, after a crash too. (Functions where it is seldom needed: what stands in
-- a statement is made ready each time.)
CREATE FUNCTION pgrain._incarnation() RETURNS timestamptz
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN RETURN (SELECT backend_start FROM pg_stat_get_activity(NULL) WHERE backend_type = 'checkpointer'); END $$;

-- One text that changes when something may have changed that no trigger has seen: rewritten tables
-- (TRUNCATE, ALTER TABLE, VACUUM FULL), unlogged tables after a crash, partitions that came or went,
-- triggers that were off, columns and their types, names that may mean another table, functions that
-- mean something else, another owner. NULL while a table is missing or can't be watched, while a
-- trigger is missing or may not fire, is still on a table that is none of them (any more), or its
-- owner may not note anything.
CREATE FUNCTION pgrain._watch_print(watch bigint) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
-- Plans are kept in plpgsql, not in sql; a few rows of catalogs, all of which are found by index.
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off
SET enable_mergejoin = off AS $$
BEGIN RETURN (
    WITH RECURSIVE w AS MATERIALIZED (
        SELECT x.fact, x.second, x.tables, x.functions, x.settings -> 'search_path' AS path
        FROM pgrain.watch x WHERE x.watch = $1),
    tree (oid, kind) AS (
        SELECT t::oid, CASE t WHEN w.fact THEN 'fact' WHEN w.second THEN 'second' ELSE 'other' END
        FROM w, unnest(w.tables) AS t
        UNION
        SELECT i.inhrelid, tree.kind FROM tree JOIN pg_inherits i ON i.inhparent = tree.oid
            AND NOT i.inhdetachpending),
    made AS MATERIALIZED (
        SELECT t.oid, t.xmin, t.tgrelid, t.tgenabled, p.proname FROM pg_proc p JOIN pg_depend d ON d.refclassid = 'pg_proc'::regclass
            AND d.refobjid = p.oid AND d.classid = 'pg_trigger'::regclass
        JOIN pg_trigger t ON t.oid = d.objid
        WHERE p.pronamespace = 'pgrain'::regnamespace AND p.pronargs = 0
            AND p.proname IN (format('_watch_%s_fact', $1), format('_watch_%s_second', $1),
                              format('_watch_%s_other', $1))
        ORDER BY t.oid)
    SELECT CASE WHEN bool_and(armed) THEN md5(string_agg(part, ',' ORDER BY part COLLATE "C")) END
    FROM (
        SELECT coalesce(f.on_always = CASE tree.kind WHEN 'other' THEN 1 ELSE 4 END, false),
               concat_ws(':', c.oid, c.relfilenode, c.relkind, c.relnamespace, c.relname,
                         CASE WHEN c.relpersistence = 'u' THEN pgrain._incarnation() END, f.found,
                         -- (xmin: a child of another table for a while, whose statements fire no triggers here)
                         (SELECT md5(string_agg(concat_ws('.', a.attnum, a.attname, a.atttypid, a.version,
                                                          a.attcollation, CASE WHEN a.atttypid >= 16384
                                                          THEN pgrain._type_print(a.atttypid) END), ';'))
                          FROM (SELECT a.attnum, a.attname, a.atttypid, a.xmin AS version, a.attcollation
                                FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0
                                ORDER BY a.attnum) AS a))
        FROM tree LEFT JOIN pg_class c USING (oid) LEFT JOIN LATERAL (
            SELECT count(*) FILTER (WHERE t.tgenabled = 'A' AND t.proname IN (
                       format('_watch_%s_%s', $1, tree.kind), format('_watch_%s_other', $1))) AS on_always,
                   string_agg(concat_ws('.', t.oid, t.xmin, t.tgenabled), ';') AS found
            FROM made t WHERE t.tgrelid = c.oid) AS f ON true
        UNION ALL
        SELECT false, '' FROM (SELECT array_agg(oid) AS oids FROM tree) AS all_of
            CROSS JOIN LATERAL pgrain._unwatchable(all_of.oids)
        UNION ALL
        SELECT false, '' FROM made t WHERE t.tgrelid NOT IN (SELECT oid FROM tree)
        UNION ALL
        -- what the query's names of tables may mean
        SELECT true, concat_ws(':', 'path', s.place, n.oid, n.nspname, named.oid)
        FROM w CROSS JOIN jsonb_array_elements_text(w.path) WITH ORDINALITY AS s (name, place)
        JOIN pg_namespace n ON n.nspname = s.name::name
        LEFT JOIN pg_class named ON named.relnamespace = n.oid AND named.relname = ANY (ARRAY(
            SELECT c.relname FROM unnest(w.tables) AS t JOIN pg_class c ON c.oid = t))
        UNION ALL
        SELECT coalesce(has_table_privilege(o, 'pgrain.watch_note', 'INSERT')
                        AND has_schema_privilege(o, 'pgrain', 'USAGE'), false), concat('owner ', o)
        FROM (SELECT (SELECT p.proowner FROM pg_proc p WHERE p.pronamespace = 'pgrain'::regnamespace
                      AND p.proname = format('_watch_%s_fact', $1) AND p.pronargs = 0)) AS owner (o)
        UNION ALL
        SELECT true, concat_ws(':', p.oid, p.xmin, pgrain._called_print(p.oid)) FROM pg_proc p
        WHERE p.oid::bigint >= 16384    -- (not by the index of numbers, of which there may be many)
            AND p.proname = ANY ((SELECT w.functions FROM w)::name[])
            AND p.pronamespace <> 'pgrain'::regnamespace
    ) AS parts (armed, part));
END $$;

-- Functions of users that one of theirs may call, at whatever depth: PostgreSQL records what a body
-- in SQL's own syntax (BEGIN ATOMIC) depends on; in one that is a string every word is taken for the
-- name of a function, which finds what is called by a name of letters, digits, _ and $.
CREATE FUNCTION pgrain._called_print(function oid) RETURNS text
LANGUAGE plpgsql STABLE STRICT PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN RETURN (
    WITH RECURSIVE reached (oid) AS (
        SELECT $1 UNION
        SELECT called.oid FROM reached JOIN pg_proc p USING (oid), LATERAL (
            SELECT o.oid FROM (
                SELECT DISTINCT word::name AS name FROM regexp_split_to_table(
                    p.prosrc, '[\x01-\x23\x25-\x2f\x3a-\x40\x5b-\x5e\x60\x7b-\x7f]+') AS w (any_case),
                    LATERAL (VALUES (any_case), (lower(any_case))) AS one (word)
                WHERE word <> '') AS words JOIN pg_proc o ON o.proname = words.name
            UNION ALL
            SELECT d.refobjid FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass
                AND d.objid = p.oid AND d.refclassid = 'pg_proc'::regclass) AS called
        WHERE called.oid::bigint >= 16384)
    SELECT md5(string_agg(concat_ws('.', p.oid, p.xmin), ',' ORDER BY p.oid))
    FROM reached JOIN pg_proc p USING (oid)
    WHERE p.pronamespace <> 'pgrain'::regnamespace);
END $$;

-- What values of a user's type are: its definition and, of an enum, its labels; of what it is an
-- array, a range, a domain or a composite of, too.
CREATE FUNCTION pgrain._type_print(type oid) RETURNS text
LANGUAGE plpgsql STABLE STRICT PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN RETURN (
    WITH RECURSIVE reached (oid) AS (
        SELECT $1 UNION
        SELECT part FROM reached JOIN pg_type t USING (oid), LATERAL (
            VALUES (t.typelem), (t.typbasetype) UNION ALL
            SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0
            UNION ALL SELECT r.rngsubtype FROM pg_range r WHERE t.oid IN (r.rngtypid, r.rngmultitypid)
        ) AS parts (part) WHERE part >= 16384)
    SELECT md5(string_agg(concat_ws('.', t.oid, t.xmin, (
        SELECT string_agg(concat_ws('.', e.oid, e.xmin), ';' ORDER BY e.oid)
        FROM pg_enum e WHERE e.enumtypid = t.oid)), ',' ORDER BY t.oid))
    FROM reached JOIN pg_type t USING (oid));
END $$;

-- Attached relations are caught up with. Which rows are there, and what is predicted for them, never
-- depends on any of this: values are found by content, and one that is not stored is computed live.

-- Locks tables for DDL on them: all of them, or none after three seconds (55P03). It never waits for
-- one for long while it has another, else PostgreSQL might end somebody else's statement to solve a
-- deadlock, which it looks for after a second (deadlock_timeout); and those who queue behind it go
-- on in between.
CREATE FUNCTION pgrain._lock_briefly(relations regclass[]) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT SET search_path = pg_catalog, pg_temp SET lock_timeout = '800ms' AS $$
DECLARE
    gives_up CONSTANT timestamptz := clock_timestamp() + interval '3 seconds';
    began timestamptz;
    relation regclass;
BEGIN
    LOOP
        BEGIN
            began := clock_timestamp();
            FOREACH relation IN ARRAY relations LOOP
                PERFORM set_config('lock_timeout', greatest(800 - extract(
                    epoch FROM clock_timestamp() - began)::float8 * 1000, 1)::int::text, true);
                EXECUTE format('LOCK TABLE ONLY %s IN ACCESS EXCLUSIVE MODE', relation);
            END LOOP;
            RETURN;
        EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
            IF clock_timestamp() > gives_up THEN
                RAISE EXCEPTION 'pgrain: % is in use', relation USING ERRCODE = '55P03';
            END IF;
            PERFORM pg_sleep(0.05);
        END;
    END LOOP;
END $$;

-- That a statement has written to a relation. Read and deleted by the worker; nobody waits for it.
CREATE TABLE pgrain.attachment_hint (
    relation oid NOT NULL,
    made_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX ON pgrain.attachment_hint (relation, made_at);
-- It has no key: where there is a publication FOR ALL TABLES, rows could not be deleted.
ALTER TABLE pgrain.attachment_hint REPLICA IDENTITY FULL;
COMMENT ON TABLE pgrain.attachment_hint IS 'relations that statements have written to of late';

-- How many values a relation had when it was read last; all of them were stored for that version.
CREATE TABLE pgrain.attachment_state (
    model    text NOT NULL,
    relation regclass NOT NULL,
    version  bigint NOT NULL REFERENCES pgrain.model_version ON DELETE CASCADE,
    n_values bigint NOT NULL,
    read_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (model, relation, version),
    FOREIGN KEY (model, relation) REFERENCES pgrain.attachment ON DELETE CASCADE ON UPDATE CASCADE
);
CREATE INDEX ON pgrain.attachment_state (version);
COMMENT ON TABLE pgrain.attachment_state IS 'when attached relations were read last, for which version';

-- Where nobody reads hints (no worker runs) they would grow by a row a statement: one that has waited
-- for ten seconds serves for this statement, too. It is locked until this transaction ends, and the
-- worker deletes none that is; those locks do not conflict with each other, and nobody waits for one.
-- Not in serializable transactions, whose looking would make them fail.
CREATE FUNCTION pgrain._hint() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
    IF current_setting('transaction_isolation') <> 'serializable' THEN
        PERFORM FROM pgrain.attachment_hint h WHERE h.relation = TG_RELID
            AND h.made_at < statement_timestamp() - interval '10 seconds'
            LIMIT 1 FOR KEY SHARE SKIP LOCKED;
        IF FOUND THEN
            RETURN NULL;
        END IF;
    END IF;
    INSERT INTO pgrain.attachment_hint (relation) VALUES (TG_RELID);
    RETURN NULL;
EXCEPTION
    WHEN serialization_failure THEN     -- it is another one than in this transaction's snapshot
        BEGIN
            INSERT INTO pgrain.attachment_hint (relation) VALUES (TG_RELID);
        EXCEPTION WHEN OTHERS THEN
            NULL;
        END;
        RETURN NULL;
    WHEN OTHERS THEN   -- never the statement's trouble
        RETURN NULL;
END $$;

-- Forgets what the worker is about to see to: the hints of some relations, of those that are not
-- attached where `others`. What a transaction under way relies on (_hint) stays, as a young one that
-- no further transaction relies on.
CREATE FUNCTION pgrain._forget_hints(relations oid[], others boolean) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    WITH free AS (
        SELECT h.ctid AS at FROM pgrain.attachment_hint h
        WHERE (h.relation = ANY ($1)) <> others FOR UPDATE SKIP LOCKED)
    DELETE FROM pgrain.attachment_hint h USING free WHERE h.ctid = free.at;
    UPDATE pgrain.attachment_hint h SET made_at = clock_timestamp()
    WHERE (h.relation = ANY ($1)) <> others;
END $$;

-- Puts the trigger on an attached relation and its partitions, where whoever attached it could have
-- done that; without it, the worker's sweep finds what is new somewhat later.
CREATE FUNCTION pgrain._hint_at(relation regclass) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    part regclass;
    parts regclass[];
BEGIN
    -- By the role's number: a name that no role has any more, of another attachment, is an error.
    IF NOT EXISTS (SELECT FROM pgrain.attachment a JOIN pg_roles r ON r.rolname = a.attached_by
                   WHERE a.relation = $1 AND has_table_privilege(r.oid, $1, 'TRIGGER')) THEN
        RETURN;
    END IF;
    WITH RECURSIVE tree (oid) AS (
        SELECT $1::oid UNION
        SELECT i.inhrelid FROM tree JOIN pg_inherits i ON i.inhparent = tree.oid)
    SELECT coalesce(array_agg(c.oid ORDER BY c.oid), '{}') INTO parts
    FROM tree JOIN pg_class c USING (oid)
    WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND NOT EXISTS (
        SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgname = '_pgrain_attached');
    PERFORM pgrain._alone();
    PERFORM pgrain._lock_briefly(parts);
    FOREACH part IN ARRAY parts LOOP
        -- Whoever had the lock before may have made it.
        CONTINUE WHEN EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = part AND t.tgname = '_pgrain_attached');
        EXECUTE format('CREATE TRIGGER _pgrain_attached AFTER INSERT OR UPDATE ON %s
                        FOR EACH STATEMENT EXECUTE FUNCTION pgrain._hint()', part);
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER _pgrain_attached', part);
        EXECUTE format('ALTER TRIGGER _pgrain_attached ON %s DEPENDS ON EXTENSION pgrain', part);
    END LOOP;
EXCEPTION
    WHEN lock_not_available THEN
        RAISE NOTICE 'pgrain: % is in use, so it has no trigger; new rows are found by looking', $1;
    WHEN OTHERS THEN       -- somebody's event trigger refuses DDL, perhaps
        RAISE NOTICE 'pgrain: % could not be given a trigger (%); new rows are found by looking', $1, SQLERRM;
END $$;

-- The trigger goes with the last attachment of its relation.
CREATE FUNCTION pgrain._unhint() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    part regclass;
    parts regclass[];
BEGIN
    IF EXISTS (SELECT FROM pgrain.attachment a WHERE a.relation = OLD.relation) THEN
        RETURN NULL;
    END IF;
    WITH RECURSIVE tree (oid) AS (
        SELECT OLD.relation::oid UNION
        SELECT i.inhrelid FROM tree JOIN pg_inherits i ON i.inhparent = tree.oid)
    SELECT coalesce(array_agg(t.tgrelid ORDER BY t.tgrelid), '{}') INTO parts
    FROM tree JOIN pg_trigger t ON t.tgrelid = tree.oid WHERE t.tgname = '_pgrain_attached';
    PERFORM pgrain._lock_briefly(parts);
    FOREACH part IN ARRAY parts LOOP
        EXECUTE format('DROP TRIGGER _pgrain_attached ON %s', part);
    END LOOP;
    RETURN NULL;
EXCEPTION
    WHEN lock_not_available THEN
        RAISE NOTICE 'pgrain: % is in use and keeps its trigger for now', OLD.relation;
        RETURN NULL;
    WHEN OTHERS THEN
        RAISE NOTICE 'pgrain: % keeps its trigger for now (%)', OLD.relation, SQLERRM;
        RETURN NULL;
END $$;
CREATE TRIGGER unhint AFTER DELETE ON pgrain.attachment
    FOR EACH ROW EXECUTE FUNCTION pgrain._unhint();

-- What was dropped is not attached any more, and no training table: a number that PostgreSQL may
-- give to another relation one day, in a restored dump tomorrow. Hints of what is not attached
-- (any more: dropped, a partition that was detached) and triggers that leave them go. The worker
-- calls this now and then.
CREATE FUNCTION pgrain._tidy() RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    a record;
    attached oid[];
    left_over regclass;
BEGIN
    FOR a IN SELECT x.model, x.relation FROM pgrain.attachment x
             WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = x.relation)
             UNION      -- what a job has stored after the relation was detached
             SELECT v.model, p.relation::regclass FROM pgrain.prediction_chunk p
             JOIN pgrain.model_version v USING (version) WHERE NOT EXISTS (
                 SELECT FROM pgrain.attachment x
                 WHERE x.model = v.model AND x.relation = p.relation) LOOP
        PERFORM pgrain._drop_predictions(a.model, a.relation);
        DELETE FROM pgrain.attachment x WHERE x.model = a.model AND x.relation = a.relation;
    END LOOP;
    UPDATE pgrain.model m SET training_table = '-' WHERE m.training_table <> '-'::regclass
        AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = m.training_table);
    WITH RECURSIVE tree (oid) AS (
        SELECT x.relation::oid FROM pgrain.attachment x UNION
        SELECT i.inhrelid FROM tree JOIN pg_inherits i ON i.inhparent = tree.oid)
    SELECT coalesce(array_agg(oid), '{}') INTO attached FROM tree;
    PERFORM pgrain._forget_hints(attached, true);
    FOR left_over IN SELECT t.tgrelid FROM pg_trigger t
                     WHERE t.tgname = '_pgrain_attached' AND t.tgrelid <> ALL (attached)
                         AND t.tgfoid = 'pgrain._hint()'::regprocedure LOOP
        BEGIN
            PERFORM pgrain._lock_briefly(ARRAY[left_over]);
            EXECUTE format('DROP TRIGGER _pgrain_attached ON %s', left_over);
        EXCEPTION WHEN lock_not_available THEN
            NULL;       -- another time
        WHEN OTHERS THEN
            RAISE WARNING 'pgrain: % keeps its trigger for now (%)', left_over, SQLERRM;
        END;
        EXIT;           -- locked until this is committed: one at a time
    END LOOP;
    DELETE FROM pgrain.training_state t WHERE NOT EXISTS (
        SELECT FROM pgrain.model m WHERE m.model = t.model);
    DELETE FROM pgrain.attachment_problem p WHERE NOT EXISTS (
        SELECT FROM pgrain.attachment x WHERE x.model = p.model AND x.relation = p.relation);
    DELETE FROM pgrain.held h WHERE NOT EXISTS (
        SELECT FROM pg_stat_get_activity(h.pid) AS p WHERE p.pid = h.pid AND p.backend_start = h.started);
    -- of watches that have ended
    DELETE FROM pgrain.watch_lock l USING (
        SELECT x.ctid AS at FROM pgrain.watch_lock x
        WHERE NOT EXISTS (SELECT FROM pgrain.watch w WHERE w.watch = x.watch) FOR UPDATE SKIP LOCKED) AS free
    WHERE l.ctid = free.at;
    PERFORM pgrain._drop_cut(number) FROM (
        SELECT substring(c.relname FROM '^_watch_(\d+)_cut$')::bigint AS number FROM pg_class c
        WHERE c.relnamespace = 'pgrain'::regnamespace AND c.relkind = 'S') AS cut
    WHERE number IS NOT NULL AND NOT EXISTS (SELECT FROM pgrain.watch w WHERE w.watch = number);
END $$;

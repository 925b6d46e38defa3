-- Attached relations are caught up with. Which rows are there, and what is predicted for them, never
-- depends on any of this: values are found by content, and one that is not stored is computed live.

-- That a statement has written to a relation. Read and deleted by the worker; nobody waits for it.
CREATE TABLE pgrain.attachment_hint (
    relation oid NOT NULL,
    made_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
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

CREATE FUNCTION pgrain._hint() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO pgrain.attachment_hint (relation) VALUES (TG_RELID);
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN   -- never the statement's trouble
    RETURN NULL;
END $$;

-- Puts the trigger on an attached relation and its partitions, where whoever attached it could have
-- done that; without it, the worker's sweep finds what is new somewhat later.
CREATE FUNCTION pgrain._hint_at(relation regclass) RETURNS void
LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET lock_timeout = '1s' AS $$
DECLARE
    part regclass;
BEGIN
    -- By the role's number: a name that no role has any more, of another attachment, is an error.
    IF NOT EXISTS (SELECT FROM pgrain.attachment a JOIN pg_roles r ON r.rolname = a.attached_by
                   WHERE a.relation = $1 AND has_table_privilege(r.oid, $1, 'TRIGGER')) THEN
        RETURN;
    END IF;
    FOR part IN
        WITH RECURSIVE tree (oid) AS (
            SELECT $1::oid UNION
            SELECT i.inhrelid FROM tree JOIN pg_inherits i ON i.inhparent = tree.oid)
        SELECT c.oid FROM tree JOIN pg_class c USING (oid)
        WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND NOT EXISTS (
            SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgname = '_pgrain_attached')
        ORDER BY c.oid
    LOOP
        EXECUTE format('CREATE TRIGGER _pgrain_attached AFTER INSERT OR UPDATE ON %s
                        FOR EACH STATEMENT EXECUTE FUNCTION pgrain._hint()', part);
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER _pgrain_attached', part);
        EXECUTE format('ALTER TRIGGER _pgrain_attached ON %s DEPENDS ON EXTENSION pgrain', part);
    END LOOP;
EXCEPTION WHEN lock_not_available THEN
    RAISE NOTICE 'pgrain: % is in use, so it has no trigger; new rows are found by looking', $1;
END $$;

-- The trigger goes with the last attachment of its relation.
CREATE FUNCTION pgrain._unhint() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s' AS $$
DECLARE
    part regclass;
BEGIN
    IF EXISTS (SELECT FROM pgrain.attachment a WHERE a.relation = OLD.relation) THEN
        RETURN NULL;
    END IF;
    FOR part IN
        WITH RECURSIVE tree (oid) AS (
            SELECT OLD.relation::oid UNION
            SELECT i.inhrelid FROM tree JOIN pg_inherits i ON i.inhparent = tree.oid)
        SELECT t.tgrelid FROM tree JOIN pg_trigger t ON t.tgrelid = tree.oid
        WHERE t.tgname = '_pgrain_attached'
    LOOP
        EXECUTE format('DROP TRIGGER _pgrain_attached ON %s', part);
    END LOOP;
    RETURN NULL;
EXCEPTION WHEN lock_not_available THEN
    RAISE NOTICE 'pgrain: % is in use and keeps its trigger, which does no harm', OLD.relation;
    RETURN NULL;
END $$;
CREATE TRIGGER unhint AFTER DELETE ON pgrain.attachment
    FOR EACH ROW EXECUTE FUNCTION pgrain._unhint();

-- What was dropped is not attached any more, and no training table: a number that PostgreSQL may
-- give to another relation one day, in a restored dump tomorrow. The worker calls this now and then.
CREATE FUNCTION pgrain._tidy() RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    a record;
BEGIN
    FOR a IN SELECT x.model, x.relation FROM pgrain.attachment x
             WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = x.relation) LOOP
        PERFORM pgrain._drop_predictions(a.model, a.relation);
        DELETE FROM pgrain.attachment x WHERE x.model = a.model AND x.relation = a.relation;
    END LOOP;
    UPDATE pgrain.model m SET training_table = '-' WHERE m.training_table <> '-'::regclass
        AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = m.training_table);
END $$;

-- How many changes of a watch are noted, and what says that no more are (docs/dev/watches.md).

-- How much of one watch may wait to be folded: settings watch_notes, watch_note_bytes. And how long
-- nobody must have folded before that is looked at.
CREATE FUNCTION pgrain._most_notes(OUT notes bigint, OUT bytes bigint, OUT patience interval)
LANGUAGE sql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS
$$ SELECT 10000, 268435456, interval '1 minute' $$;

-- The *epoch* of a watch's notes, kept in a sequence: there it is outside of any snapshot, seen by
-- everybody at once, and serializable transactions do not fail for reading it. Even: changes are
-- noted. Odd: too much waited, and whoever sees that notes nothing more. Each even number is there
-- once, so who finds the one that a state has knows that since then all was noted. Before a state
-- gets a new one, the worker waits for all who may have seen the odd one ("draining",
-- docs/dev/watches.md). NULL: there is none (yet).
CREATE FUNCTION pgrain._watch_cut(watch bigint) RETURNS bigint
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN RETURN pg_sequence_last_value(to_regclass(format('pgrain._watch_%s_cut', watch))); END $$;

-- Takes away what ALTER DEFAULT PRIVILEGES has given others on a new object of pgrain's.
CREATE FUNCTION pgrain._owner_only(what text, name text, acl aclitem[], owner oid) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    other oid;
BEGIN
    FOR other IN SELECT DISTINCT a.grantee FROM aclexplode(acl) a WHERE a.grantee <> owner LOOP
        EXECUTE format('REVOKE ALL ON %s %s FROM %s', what, name,
                       CASE other WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(other)) END);
    END LOOP;
END $$;

-- Who makes what depends on the extension (triggers, functions, sequences) does so alone: its lock is
-- taken for one of them weakly, for the next strongly, and two at a time would wait for each other.
-- Nobody else may lock this table, nor does anybody write to it.
CREATE FUNCTION pgrain._alone() RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET lock_timeout = '10s' AS $$
BEGIN
    LOCK TABLE pgrain.installation IN SHARE UPDATE EXCLUSIVE MODE;
END $$;

-- Begins an epoch in which changes are noted. Once a transaction, for whose number it is made.
CREATE FUNCTION pgrain._note_again(watch bigint) RETURNS bigint
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    name CONSTANT text := format('pgrain._watch_%s_cut', watch);
BEGIN
    IF to_regclass(name) IS NULL THEN
        PERFORM pgrain._alone();
        EXECUTE format('CREATE SEQUENCE %s', name);
        -- It goes with DROP EXTENSION, and into no dump: another server counts its own transactions.
        EXECUTE format('ALTER EXTENSION pgrain ADD SEQUENCE %s', name);
        PERFORM pgrain._owner_only('SEQUENCE', name, c.relacl, c.relowner) FROM pg_class c WHERE c.oid = name::regclass;
    END IF;
    RETURN setval(name::regclass, 2 * pg_current_xact_id()::text::bigint);
END $$;

-- Also of a watch that comes out of a dump, before a worker has been there. Whoever makes a watch
-- computes its state: no worker begins meanwhile.
CREATE FUNCTION pgrain._begin_notes() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF pgrain._watch_cut(NEW.watch) IS NULL THEN
        PERFORM pgrain._note_again(NEW.watch);
    END IF;
    INSERT INTO pgrain.watch_lock (watch) VALUES (NEW.watch) ON CONFLICT DO NOTHING;
    IF current_setting('session_replication_role') = 'origin' THEN
        PERFORM pgrain._hold('watch', NEW.watch::text);
    END IF;
    RETURN NULL;
END $$;

-- Whether a change of this statement is to be noted.
CREATE FUNCTION pgrain._may_note(watch bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN RETURN coalesce(pgrain._watch_cut(watch) % 2 = 0, true); END $$;

-- Looked at for one note in 64, and for large ones; of small ones not while a worker is at it.
-- Serializable transactions read no notes, for which others could fail: they go by the size of the
-- table, of all watches' notes.
CREATE FUNCTION pgrain._count_notes() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    most record;
    too_much boolean;
    alive boolean;
BEGIN
    SELECT * INTO most FROM pgrain._most_notes();
    -- (states and workers are written by the worker alone, which is not serializable)
    -- (a watch whose row came while its triggers were off has no epoch before a worker has been there)
    IF NEW.owner IS DISTINCT FROM pgrain._watch_owner(NEW.watch)
       OR pgrain._watch_cut(NEW.watch) % 2 IS DISTINCT FROM 0
       OR NEW.note % 64 = 0 AND EXISTS (
           SELECT FROM pgrain.watch_state s WHERE s.watch = NEW.watch
           AND greatest(s.built_at, s.folded_at) > clock_timestamp() - most.patience) THEN
        RETURN NULL;
    END IF;
    IF current_setting('transaction_isolation') = 'serializable' THEN
        alive := EXISTS (SELECT FROM pgrain.worker w WHERE w.seen_at > clock_timestamp() - most.patience);
        too_much := pg_total_relation_size('pgrain.watch_note') > most.bytes * CASE WHEN alive THEN 4 ELSE 1 END
                    OR NOT alive AND pg_relation_size('pgrain.watch_note') > 1024 * most.notes;
    ELSE
        SELECT count(*) > most.notes OR sum(size) > most.bytes INTO too_much FROM (
            SELECT coalesce(pg_column_size(n.a), 0) + coalesce(pg_column_size(n.b), 0)
                   + coalesce(pg_column_size(n.c), 0)::bigint AS size
            FROM pgrain.watch_note n WHERE n.watch = NEW.watch AND n.owner = NEW.owner
            LIMIT most.notes + 1) AS n;
    END IF;
    IF too_much
       -- Who computes the state takes away what waits.
       AND pgrain._holder('watch', NEW.watch::text) IS NULL THEN
        PERFORM setval(format('pgrain._watch_%s_cut', NEW.watch)::regclass,
                       2 * pg_current_xact_id()::text::bigint + 1);
    END IF;
    RETURN NULL;
END $$;

-- The sequence of a watch that has ended. Who has read it in a transaction that goes on has it
-- locked, or an event trigger refuses it: then it stays for now (pgrain._tidy).
CREATE FUNCTION pgrain._drop_cut(watch bigint) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
BEGIN
    EXECUTE format('ALTER EXTENSION pgrain DROP SEQUENCE pgrain.%I', format('_watch_%s_cut', watch));
    EXECUTE format('DROP SEQUENCE pgrain.%I', format('_watch_%s_cut', watch));
EXCEPTION WHEN OTHERS THEN NULL;
END $$;

-- Training keys are personal data: who may not read the training table may be denied them.

CREATE TABLE pgrain.protected_keys (
    model          text PRIMARY KEY REFERENCES pgrain.model ON DELETE CASCADE ON UPDATE CASCADE,
    training_table regclass NOT NULL,
    key            name NOT NULL,
    protected_by   name NOT NULL DEFAULT current_user,
    protected_at   timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE pgrain.protected_keys IS
    'models whose training keys are shown only to who may read them in the training table';
SELECT pg_catalog.pg_extension_config_dump('pgrain.protected_keys', '');

-- Whose keys they are is settled when they are protected, so that a model that is pointed at another
-- table later shows no more of them; and only who may read them takes the protection away. Runs as
-- whoever changes the table (drop_model's cascade as its owner).
CREATE FUNCTION pgrain._of_the_model() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        -- Where the column is gone, who may read the whole table; where that is gone, anybody.
        IF NOT coalesce(
            (SELECT has_column_privilege(t.attrelid, t.attnum, 'SELECT') FROM pg_attribute t
             WHERE t.attrelid = OLD.training_table AND t.attname = OLD.key),
            has_table_privilege(OLD.training_table, 'SELECT'), true) THEN
            RAISE EXCEPTION 'pgrain: permission denied for relation %', OLD.training_table
                USING ERRCODE = 'insufficient_privilege',
                      HINT = 'Who may read the training keys may show them to others.';
        END IF;
        RETURN OLD;
    END IF;
    IF NOT (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) THEN
        SELECT m.training_table, m.key INTO STRICT NEW.training_table, NEW.key
        FROM pgrain.model m WHERE m.model = NEW.model;
        NEW.protected_by := current_user;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER of_the_model BEFORE INSERT OR DELETE ON pgrain.protected_keys
    FOR EACH ROW EXECUTE FUNCTION pgrain._of_the_model();

CREATE FUNCTION pgrain.protect_keys(model text, protect boolean DEFAULT true)
RETURNS void LANGUAGE plpython3u VOLATILE STRICT PARALLEL UNSAFE AS $python$
@BACKEND@
backend.protect_keys(plpy, model, protect)
$python$;
COMMENT ON FUNCTION pgrain.protect_keys IS
    'show a model''s training keys only to who may read them in its training table; false: to every caller';

-- Edits name keys, too: those of a protected model are for who may read them. (The view pgrain.edits
-- shows to everybody that there are some.)
ALTER TABLE pgrain.training_edit ENABLE ROW LEVEL SECURITY;
CREATE POLICY worker ON pgrain.training_edit TO pgrain_worker USING (true);
CREATE POLICY readable ON pgrain.training_edit USING (NOT EXISTS (
    SELECT FROM pgrain.protected_keys p
    WHERE p.model = training_edit.model AND (row_security_active(p.training_table) OR NOT EXISTS (
        SELECT FROM pg_catalog.pg_attribute t
        WHERE t.attrelid = p.training_table AND t.attname = p.key
          AND has_column_privilege(p.training_table, t.attnum, 'SELECT')))));

-- So may the details of what failed before; the worker leaves them out from now on.
CREATE FUNCTION pgrain._without_details() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE pgrain.job j SET error = j.error - 'detail'
    WHERE j.model = NEW.model AND j.error ->> 'detail' IS NOT NULL;
    RETURN NULL;
END $$;
CREATE TRIGGER without_details AFTER INSERT ON pgrain.protected_keys
    FOR EACH ROW EXECUTE FUNCTION pgrain._without_details();

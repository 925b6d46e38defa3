-- Models and their jobs. The stubs load the backend once a session and hand over; the work is in
-- python/pgrain/backend/.

CREATE FUNCTION pgrain.create_model(model text, training_table regclass, key name, features name[],
                                    label name, architecture text, options jsonb DEFAULT '{}')
RETURNS void LANGUAGE plpython3u VOLATILE STRICT PARALLEL UNSAFE AS $python$
@BACKEND@
backend.create_model(plpy, model, training_table, key, features, label, architecture, options)
$python$;
COMMENT ON FUNCTION pgrain.create_model IS 'declare a model: its training table, key, features, label, architecture';

CREATE FUNCTION pgrain.alter_model(model text, training_table regclass DEFAULT NULL, key name DEFAULT NULL,
                                   features name[] DEFAULT NULL, label name DEFAULT NULL)
RETURNS void LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE AS $python$
@BACKEND@
backend.alter_model(plpy, model, training_table, key, features, label)
$python$;
COMMENT ON FUNCTION pgrain.alter_model IS 'say where the training rows of a model are by now: another table, other names of its columns';

CREATE FUNCTION pgrain.drop_model(model text)
RETURNS void LANGUAGE plpython3u VOLATILE STRICT PARALLEL UNSAFE AS $python$
@BACKEND@
backend.drop_model(plpy, model)
$python$;
COMMENT ON FUNCTION pgrain.drop_model IS 'drop a model with all its versions, projections and edits';

CREATE FUNCTION pgrain.activate(model text, version bigint)
RETURNS void LANGUAGE plpython3u VOLATILE STRICT PARALLEL UNSAFE AS $python$
@BACKEND@
backend.activate(plpy, model, version)
$python$;
COMMENT ON FUNCTION pgrain.activate IS 'make an earlier version of a model the active one';

CREATE PROCEDURE pgrain.train(model text, options jsonb DEFAULT '{}', wait boolean DEFAULT true)
LANGUAGE plpython3u AS $python$
@BACKEND@
backend.train(plpy, model, options, wait)
$python$;
COMMENT ON PROCEDURE pgrain.train IS 'train a new version, with the applied edits in force; active when it succeeds';

CREATE PROCEDURE pgrain.precompute(model text, options jsonb DEFAULT '{}', wait boolean DEFAULT true)
LANGUAGE plpython3u AS $python$
@BACKEND@
backend.precompute(plpy, model, options, wait)
$python$;
COMMENT ON PROCEDURE pgrain.precompute IS 'spectrum and projections of the active version';

CREATE PROCEDURE pgrain.attach(model text, relation regclass, features name[] DEFAULT NULL,
                               wait boolean DEFAULT true)
LANGUAGE plpython3u AS $python$
@BACKEND@
backend.attach(plpy, model, relation, features, wait)
$python$;
COMMENT ON PROCEDURE pgrain.attach IS 'compute and store the predictions of a relation''s feature values';

CREATE FUNCTION pgrain.detach(model text, relation regclass)
RETURNS void LANGUAGE plpython3u VOLATILE STRICT PARALLEL UNSAFE AS $python$
@BACKEND@
backend.detach(plpy, model, relation)
$python$;
COMMENT ON FUNCTION pgrain.detach IS 'stop keeping predictions of a relation';

CREATE FUNCTION pgrain.apply(model text, train_keys text[], intervention text)
RETURNS void LANGUAGE plpython3u VOLATILE STRICT PARALLEL UNSAFE AS $python$
@BACKEND@
backend.apply(plpy, model, train_keys, intervention)
$python$;
COMMENT ON FUNCTION pgrain.apply IS 'record edits (delete, relabel:<class>) that the next train uses; the training table is never changed';

CREATE FUNCTION pgrain.revert(model text, train_keys text[] DEFAULT NULL)
RETURNS void LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE AS $python$
@BACKEND@
backend.revert(plpy, model, train_keys)
$python$;
COMMENT ON FUNCTION pgrain.revert IS 'take back edits; all of the model''s without keys';

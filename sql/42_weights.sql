-- Weights that were trained elsewhere come as bytes, never as a path: SQL reads no file here.

-- What a version's arrays look like: shape of one encoded row, names and shapes of the parameters.
ALTER TABLE pgrain.model_version ADD COLUMN shapes jsonb;
-- Which operator a spectrum is of, so that more pairs can be computed without starting over.
ALTER TABLE pgrain.spectrum ADD COLUMN options jsonb NOT NULL DEFAULT '{}';

CREATE TABLE pgrain.weights (
    job  bigint PRIMARY KEY REFERENCES pgrain.job ON DELETE CASCADE,
    data bytea NOT NULL
);
ALTER TABLE pgrain.weights ALTER data SET STORAGE EXTERNAL;
COMMENT ON TABLE pgrain.weights IS 'weights that wait to be imported; deleted when their job ends';

CREATE PROCEDURE pgrain.import_weights(model text, weights bytea, options jsonb DEFAULT '{}', wait boolean DEFAULT true)
LANGUAGE plpython3u AS $python$
@BACKEND@
backend.import_weights(plpy, model, weights, options, wait)
$python$;
COMMENT ON PROCEDURE pgrain.import_weights IS 'a new version from weights trained elsewhere: the bytes of a safetensors or Flax msgpack file';

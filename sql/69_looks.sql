-- What a worker has found by looking at users' tables: training rows beside those that a version
-- learned, and attached relations that cannot be read (worker/training_look.py, worker/catch_up.py).
-- No foreign keys: the worker would wait for whoever drops a model. pgrain._tidy takes away what is
-- nobody's any more.

CREATE TABLE pgrain.training_state (
    model        text PRIMARY KEY,
    version      bigint NOT NULL,    -- with which the rows were compared
    new_rows     bigint,             -- that it did not learn and no edit in force removes
    gone_rows    bigint,             -- that it learned and that are there no more
    changed_rows bigint,             -- that have other features or another label
    looked_at    timestamptz,        -- when that reading began
    problem      text,               -- why the last look failed; what is above is older then
    hint         text
);
COMMENT ON TABLE pgrain.training_state IS 'training rows beside those that the active version learned, as of looked_at';

CREATE TABLE pgrain.attachment_problem (
    model    text NOT NULL,
    relation oid NOT NULL,
    problem  text NOT NULL,
    hint     text,
    since    timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (model, relation)
);
COMMENT ON TABLE pgrain.attachment_problem IS 'attached relations that a worker cannot read';

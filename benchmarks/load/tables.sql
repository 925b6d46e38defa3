-- Tables of the load test, what records its answers, and two views of what must hold.
-- Two models: `steady` never changes; `moving` is edited, trained and activated under the load.
CREATE TABLE train AS
SELECT i AS id, ARRAY[cos(i * 2.4) * (1 + i % 3) + (i % 3) * 2, sin(i * 1.7) * 2 - (i % 3),
                      sin(i * 0.37), cos(i * 5.1)] AS x,
       (ARRAY['red', 'green', 'blue'])[i % 3 + 1] AS label
FROM generate_series(1, :rows) AS i;
ALTER TABLE train ADD PRIMARY KEY (id);
UPDATE train SET label = 'blue' WHERE label = 'red' AND id % 10 = 0;

CREATE FUNCTION value(n bigint) RETURNS float8[] LANGUAGE sql IMMUTABLE AS
$$ SELECT ARRAY[cos(n * 3.1) * (1 + n % 3) + (n % 3) * 2, sin(n * 2.3) * 2 - (n % 3),
                sin(n * 0.11), cos(n * 1.3)] $$;

-- Read, never written: what is answered about it can be asked again.
CREATE TABLE items AS SELECT i AS id, value(i) AS x, i % 24 AS hour
FROM generate_series(1, :rows) AS i;
ALTER TABLE items ADD PRIMARY KEY (id);

-- Written all the time, kept at about one size by deletions; watched and attached.
CREATE TABLE stream (id bigserial PRIMARY KEY, x float8[], hour integer);
INSERT INTO stream (x, hour) SELECT value(-i), i % 24 FROM generate_series(1, :rows) AS i;

-- Many small and some large training rows, for jobs that take long.
CREATE TABLE heavy AS
SELECT i AS id, (SELECT array_agg(sin(i * (j + 0.7)) + CASE WHEN i % 10 = j % 10 THEN 1 ELSE 0 END)
                 FROM generate_series(0, 63) AS j) AS x, (i % 10)::text AS label
FROM generate_series(1, :heavy) AS i;
ALTER TABLE heavy ADD PRIMARY KEY (id);

CREATE UNLOGGED TABLE answer (kind text, question integer, version bigint, answer jsonb,
                              began timestamptz, ms float8, pid integer,
                              sqlstate text, message text);

-- One question asked, and what came of it written down. `statement` returns (version, answer).
CREATE FUNCTION ask(kind text, question integer, statement text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    began timestamptz := clock_timestamp();
    version bigint;
    answer jsonb;
    state text := '00000';
    message text;
    detail text;
BEGIN
    BEGIN
        EXECUTE statement INTO version, answer;
    EXCEPTION WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
                                detail = PG_EXCEPTION_DETAIL;
        message := concat_ws(' / ', message, nullif(detail, ''));
    END;
    INSERT INTO answer VALUES (kind, question, version, answer, began,
        1000 * extract(epoch FROM clock_timestamp() - began), pg_backend_pid(), state, message);
END $$;

-- The statements that are asked, by kind and number, so that the serial run asks the same.
CREATE FUNCTION statement_of(kind text, question integer) RETURNS text LANGUAGE sql AS $$
SELECT CASE kind
    WHEN 'predict' THEN format(
        'SELECT (SELECT version FROM pgrain.models WHERE model = %1$L), (SELECT '
        'jsonb_object_agg(label, n) FROM (SELECT pgrain.predict(%1$L, x) AS label, count(*) AS n '
        'FROM items WHERE hour = %2$s GROUP BY 1) AS g)', model, hour)
    WHEN 'predict new values' THEN format(
        'SELECT (SELECT version FROM pgrain.models WHERE model = %1$L), (SELECT jsonb_agg('
        'pgrain.predict(%1$L, value(%2$s * 1000003::bigint + i)) ORDER BY i) FROM generate_series(1, 5) '
        'AS i)', model, question)
    WHEN 'complain' THEN format(
        'SELECT (SELECT version FROM pgrain.models WHERE model = %1$L), (SELECT jsonb_agg('
        'jsonb_build_array(train_id, score) ORDER BY rank) FROM pgrain.complain(%3$L, %4$L, 10))',
        model, hour, format(
            'SELECT hour, count(*) AS reds FROM items WHERE pgrain.predict(%L, x) = ''red'' '
            'GROUP BY hour', model), format('reds too high WHERE hour = %s', hour))
    WHEN 'complain on the watch' THEN format(
        'SELECT NULL::bigint, jsonb_build_object(''rows'', count(*)) FROM '
        'pgrain.complain(''reds'', %L, 10)', format('reds too high WHERE hour = %s', hour))
    -- In one snapshot, what the watch says and what the query says.
    WHEN 'watch against query' THEN
        'SELECT NULL::bigint, jsonb_build_array((SELECT jsonb_object_agg(output ->> ''hour'', '
        'value) FROM pgrain.provenance(''reds'') WHERE output_column = ''reds''), (SELECT '
        'jsonb_object_agg(hour::text, n) FROM (SELECT hour, count(*)::float8 AS n FROM stream '
        'WHERE pgrain.predict(''steady'', x) = ''red'' GROUP BY hour) AS g))'
END FROM (SELECT CASE question % 2 WHEN 0 THEN 'steady' ELSE 'moving' END AS model,
                 question / 2 % 24 AS hour) AS a $$;

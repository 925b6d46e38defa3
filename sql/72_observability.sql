-- What a DBA watches: limits, sizes, what is out of date.

CREATE FUNCTION pgrain._settings()
RETURNS TABLE (name text, value float8, minimum float8, maximum float8, unit text, meaning text)
LANGUAGE plpython3u STABLE PARALLEL UNSAFE ROWS 20 AS $python$
@BACKEND@
return backend.settings_rows(plpy)
$python$;

CREATE VIEW pgrain.settings AS
SELECT name, value, minimum, maximum, unit, meaning FROM pgrain._settings();
COMMENT ON VIEW pgrain.settings IS 'limits and defaults of this release; none of them can be changed, by SET or otherwise (options of calls, such as top_k or pairs, are others than the default within minimum and maximum)';

-- Bytes as they are stored, without what PostgreSQL adds to them.
CREATE VIEW pgrain.sizes AS
SELECT v.model, v.version, v.version IS NOT DISTINCT FROM m.active_version AS active,
       (SELECT coalesce(sum(octet_length(c.data)), 0) FROM pgrain.version_chunk c
        WHERE c.version = v.version)::bigint AS version_bytes,
       (SELECT coalesce(sum(octet_length(c.data)), 0) FROM pgrain.spectrum s
        JOIN pgrain.spectrum_chunk c USING (spectrum)
        WHERE s.version = v.version)::bigint AS spectrum_bytes,
       (SELECT coalesce(sum(octet_length(c.digests) + octet_length(c.predicted)
                            + octet_length(c.logits) + octet_length(c.probabilities)), 0)
        FROM pgrain.prediction_chunk c WHERE c.version = v.version)::bigint AS prediction_bytes,
       (SELECT coalesce(sum(c.n_values), 0) FROM pgrain.prediction_chunk c
        WHERE c.version = v.version)::bigint AS stored_values
FROM pgrain.model_version v JOIN pgrain.model m USING (model);
COMMENT ON VIEW pgrain.sizes IS 'one row a model version: how many bytes are stored for it';

CREATE VIEW pgrain.staleness AS
SELECT model, version, trained_at, precomputed_at, edits_since_training, changed_rows,
       not_attached, problem IS NOT NULL AS stale, problem,
       CASE WHEN problem IS NOT NULL THEN coalesce(hint, format(statement, model, relation)) END AS hint,
       new_rows, gone_rows, looked_at, forgotten_rows
FROM (
    SELECT m.model, m.active_version AS version, v.created_at AS trained_at,
           s.created_at AS precomputed_at, greatest(e.n, e.gone) AS edits_since_training,
           t.changed_rows, t.new_rows, t.gone_rows, t.looked_at, a.n AS not_attached, a.relation,
           f.n AS forgotten_rows,
           CASE WHEN c.oid IS NULL THEN 'its training table is gone'
                WHEN g.name IS NOT NULL THEN format('its training table has no column "%s" any more', g.name)
                WHEN m.active_version IS NULL THEN 'not trained'
                WHEN r.problem IS NOT NULL THEN format('its training table cannot be read: %s', r.problem)
                WHEN e.n > 0 THEN 'edits since it was trained'
                WHEN e.gone > 0 THEN 'edits taken back since it was trained'
                WHEN s.spectrum IS NULL THEN 'no spectrum of the active version'
                WHEN t.rows > 0 THEN format('training rows since it was trained: %s new, %s gone, %s changed',
                                            t.new_rows, t.gone_rows, t.changed_rows)
                    || CASE WHEN f.there > 0 AND t.new_rows > 0
                            THEN ' (forgotten ones that are still in the table are new)' ELSE '' END
                WHEN a.n > 0 THEN 'an attached relation has no stored predictions' END AS problem,
           -- (where the table is there and has its columns)
           CASE WHEN m.kind = 'columns' AND g.name NOT IN (m.key, m.label)   -- predict takes them by name
                    THEN format('ALTER TABLE %1$s RENAME its_name_now TO %2$I; or, with a view that has the old name: '
                                'CREATE VIEW the_view AS SELECT *, its_name_now AS %2$I FROM %1$s; '
                                'SELECT pgrain.alter_model(%3$L, ''the_view'')', m.training_table, g.name, m.model)
                WHEN c.oid IS NOT NULL AND g.name IS NULL AND m.active_version IS NOT NULL THEN coalesce(r.hint,
                    CASE WHEN f.there > 0 AND (e.n > 0 OR e.gone > 0 OR s.spectrum IS NOT NULL AND t.rows > 0)
                        THEN format('Rows that were forgotten are learned again while they are in the table: DELETE them '
                                    'from %s first, then CALL pgrain.train(%L)', m.training_table, m.model) END)
           END AS hint,
           CASE WHEN c.oid IS NULL THEN 'SELECT pgrain.alter_model(%1$L, ''the_table'')'
                WHEN g.name = m.key THEN 'SELECT pgrain.alter_model(%1$L, key => ''its_name_now'')'
                WHEN g.name = m.label THEN 'SELECT pgrain.alter_model(%1$L, label => ''its_name_now'')'
                WHEN g.name IS NOT NULL THEN 'SELECT pgrain.alter_model(%1$L, features => ''{all_their_names_now}'')'
                WHEN m.active_version IS NULL OR r.problem IS NOT NULL OR e.n > 0 OR e.gone > 0
                    THEN 'CALL pgrain.train(%1$L)'
                WHEN s.spectrum IS NULL THEN 'CALL pgrain.precompute(%1$L)'
                WHEN t.rows > 0 THEN 'CALL pgrain.train(%1$L)'
                ELSE 'CALL pgrain.attach(%1$L, %2$L)' END AS statement
    FROM pgrain.model m
    LEFT JOIN pg_class c ON c.oid = m.training_table
    LEFT JOIN pgrain.model_version v ON v.version = m.active_version
    LEFT JOIN pgrain.spectrum s ON s.spectrum = v.active_spectrum
    LEFT JOIN pgrain.training_state r ON r.model = m.model
    -- What was counted beside another version says nothing about this one.
    LEFT JOIN LATERAL (
        SELECT r.new_rows, r.gone_rows, r.changed_rows, r.looked_at,
               r.new_rows + r.gone_rows + r.changed_rows AS rows
        WHERE r.version = m.active_version) AS t ON true
    -- What came since, and how many of those that the version was trained with are there no more (or
    -- not as they were); one that replaces another is both. Versions of 0.1.0 do not know the latter.
    CROSS JOIN LATERAL (
        SELECT count(*) FILTER (WHERE NOT e.learned) AS n,
               coalesce(abs((v.metrics ->> 'edits')::bigint - count(*) FILTER (WHERE e.learned)), 0) AS gone
        FROM pgrain._version_edit e WHERE e.version = v.version) AS e
    CROSS JOIN LATERAL (
        SELECT count(*) AS n, min(a.relation::text) AS relation FROM pgrain.attachment a
        JOIN pg_class r ON r.oid = a.relation
        WHERE a.model = m.model AND NOT EXISTS (
            SELECT FROM pgrain.attachment_state x WHERE x.model = a.model
                AND x.relation = a.relation AND x.version = m.active_version)) AS a
    -- Erased since it was trained; nobody can say which they are, but a later look that found no new
    -- row has found none of them.
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(x.n_rows), 0)::bigint AS n,
               sum(x.n_rows) FILTER (WHERE (t.looked_at > x.erased_at AND t.new_rows = 0) IS NOT TRUE) AS there
        FROM pgrain.erasure x WHERE x.model = m.model AND x.erased_at > v.created_at) AS f
    LEFT JOIN LATERAL (
        SELECT min(f.name) AS name FROM unnest(m.features || m.key || m.label) AS f (name)
        WHERE NOT EXISTS (SELECT FROM pg_attribute t WHERE t.attrelid = c.oid
                          AND t.attname = f.name AND NOT t.attisdropped)) AS g ON c.oid IS NOT NULL
) AS found;
COMMENT ON VIEW pgrain.staleness IS 'one row a model: what is out of date, and the statement that mends it; new_rows, gone_rows, changed_rows: of the training table beside what the active version learned, as a worker found them at looked_at (null: nobody has looked since it became active); forgotten_rows: that pgrain.forget has erased since it was trained';

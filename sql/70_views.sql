-- What a person looks at.

CREATE VIEW pgrain.models AS
SELECT m.model, m.active_version AS version, m.architecture, v.classes,
       m.training_table, m.key, m.features, m.label, m.options,
       v.n_rows, v.n_parameters, v.alpha, v.metrics, v.created_at AS trained_at,
       s.k, cardinality(s.eigenvalues) AS stored_pairs, s.eigenvalues, s.status AS spectrum_status,
       s.changed_rows, s.created_at AS precomputed_at,
       (SELECT count(*) FROM pgrain.training_edit e WHERE e.model = m.model) AS edits
FROM pgrain.model m
LEFT JOIN pgrain.model_version v ON v.version = m.active_version
LEFT JOIN pgrain.spectrum s ON s.spectrum = v.active_spectrum;
COMMENT ON VIEW pgrain.models IS 'one row a model: its active version and what is stored for it';

CREATE VIEW pgrain.versions AS
SELECT v.version, v.model, v.version IS NOT DISTINCT FROM m.active_version AS active, v.ready,
       v.classes, v.n_rows, v.n_parameters, v.alpha, v.metrics, v.options, v.created_at, v.shapes
FROM pgrain.model_version v JOIN pgrain.model m USING (model);
COMMENT ON VIEW pgrain.versions IS 'one row a model version; pgrain.activate(model, version) switches';

CREATE VIEW pgrain.jobs AS
SELECT job, kind, model, arguments, state, cancel_requested, phase, done, total, message,
       error ->> 'sqlstate' AS error_code, error ->> 'message' AS error, attempts,
       submitted_by, submitted_at, started_at, finished_at
FROM pgrain.job;
COMMENT ON VIEW pgrain.jobs IS 'every train, precompute and attach, with how it ended';

CREATE VIEW pgrain.progress AS
SELECT job, kind, model, state, phase, done, total,
       round(100.0 * done / nullif(total, 0), 1) AS percent, message,
       clock_timestamp() - coalesce(started_at, submitted_at) AS elapsed
FROM pgrain.job WHERE state IN ('queued', 'running');
COMMENT ON VIEW pgrain.progress IS 'jobs that wait or run';

CREATE VIEW pgrain.workers AS
SELECT worker, pid, host, version, device, started_at, seen_at,
       seen_at > clock_timestamp() - interval '15 seconds' AS alive
FROM pgrain.worker WHERE NOT pg_is_in_recovery()
UNION ALL
SELECT NULL, pid, host, version, device, NULL, clock_timestamp(), true
FROM pgrain._worker_here() WHERE pg_is_in_recovery();
COMMENT ON VIEW pgrain.workers IS 'worker processes that have registered in this database';

CREATE VIEW pgrain.attached AS
SELECT a.model, a.relation, a.features, coalesce(s.n_values, 0) AS stored_values,
       a.attached_by, a.attached_at, s.read_at,
       (SELECT min(l.pid) FROM pg_locks l WHERE l.granted AND l.mode = 'AccessExclusiveLock'
            AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
            AND (l.relation = a.relation OR l.relation IN (
                SELECT p.relid FROM pg_partition_tree(a.relation) AS p))) AS locked_by,
       p.problem, p.since AS problem_since, p.hint
FROM pgrain.attachment a JOIN pgrain.model m USING (model)
JOIN pg_class c ON c.oid = a.relation
LEFT JOIN pgrain.attachment_state s ON s.model = a.model AND s.relation = a.relation
     AND s.version = m.active_version
LEFT JOIN pgrain.attachment_problem p ON p.model = a.model AND p.relation = a.relation;
COMMENT ON VIEW pgrain.attached IS 'inference relations known beforehand; stored_values: distinct feature values when it was read last; locked_by: the process that keeps everybody from reading it; problem: why the worker cannot read it';

-- Whether a version was trained with an edit that is in force: the one place that says so. Versions of
-- 0.1.0 have not recorded up to which edit they had read them.
CREATE VIEW pgrain._version_edit AS
SELECT v.model, v.version, e.train_key, e.intervention,
       CASE WHEN v.metrics ->> 'edits' IS NULL THEN e.applied_at <= v.created_at
            ELSE coalesce(e.applied_at <= (v.metrics ->> 'edits_until')::timestamptz, false)
            END AS learned
FROM pgrain.model_version v JOIN pgrain.training_edit e ON e.model = v.model;
COMMENT ON VIEW pgrain._version_edit IS 'edits in force, beside each version of their model: whether it was trained with them';

CREATE VIEW pgrain.edits AS
SELECT e.model,
       CASE WHEN p.model IS NULL OR (NOT row_security_active(p.training_table)
                 -- by its number: a name that is gone would be an error
                 AND EXISTS (SELECT FROM pg_attribute t
                             WHERE t.attrelid = p.training_table AND t.attname = p.key
                               AND has_column_privilege(p.training_table, t.attnum, 'SELECT')))
            THEN e.train_key END AS train_key,
       e.intervention, e.applied_by, e.applied_at
FROM pgrain.training_edit e LEFT JOIN pgrain.protected_keys p ON p.model = e.model;
COMMENT ON VIEW pgrain.edits IS 'edits that the next train uses';

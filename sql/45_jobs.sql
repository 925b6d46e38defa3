-- Jobs that wait or run.

CREATE FUNCTION pgrain.cancel(job bigint)
RETURNS boolean LANGUAGE plpython3u VOLATILE STRICT PARALLEL UNSAFE AS $python$
@BACKEND@
return backend.cancel(plpy, job)
$python$;
COMMENT ON FUNCTION pgrain.cancel IS 'stop a job: a queued one at once, a running one at its next step; false if it had ended';

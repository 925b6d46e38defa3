-- Jobs that wait or run, and the worker of a standby.

CREATE FUNCTION pgrain.cancel(job bigint)
RETURNS boolean LANGUAGE plpython3u VOLATILE STRICT PARALLEL UNSAFE AS $python$
@BACKEND@
return backend.cancel(plpy, job)
$python$;
COMMENT ON FUNCTION pgrain.cancel IS 'stop a job: a queued one at once, a running one at its next step; false if it had ended (a failed one is dismissed)';

-- A worker beside a standby cannot write that it is there: it says so itself, over the socket.
CREATE FUNCTION pgrain._worker_here()
RETURNS TABLE (pid integer, host text, version text, device text)
LANGUAGE plpython3u STABLE PARALLEL UNSAFE ROWS 1 AS $python$
@BACKEND@
return backend.worker_here(plpy)
$python$;

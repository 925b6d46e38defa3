-- What training rows have in common. describe reads the training table as the caller; the functions
-- below are what its predicates may call.

CREATE FUNCTION pgrain.describe(model text, train_keys text[], options jsonb DEFAULT '{}')
RETURNS TABLE (predicate text, covered bigint, "precision" float8, recall float8)
LANGUAGE plpython3u STABLE STRICT PARALLEL UNSAFE COST 100000 ROWS 3 AS $python$
@BACKEND@
return backend.describe(plpy, model, train_keys, options)
$python$;
COMMENT ON FUNCTION pgrain.describe IS
    'short predicates over the training table that cover these rows and little else';

CREATE FUNCTION pgrain.brightness(image bytea) RETURNS float8
LANGUAGE plpython3u STABLE STRICT PARALLEL UNSAFE AS $python$
return sum(image) / len(image) if image else None
$python$;
COMMENT ON FUNCTION pgrain.brightness IS 'the mean of a picture''s bytes, 0 to 255';

CREATE FUNCTION pgrain.contrast(image bytea) RETURNS float8
LANGUAGE plpython3u STABLE STRICT PARALLEL UNSAFE AS $python$
if not image:
    return None
n, total, squares = len(image), sum(image), sum(x * x for x in image)
return max(squares / n - (total / n) ** 2, 0.0) ** 0.5
$python$;
COMMENT ON FUNCTION pgrain.contrast IS 'the standard deviation of a picture''s bytes';

CREATE FUNCTION pgrain.cluster(model text, train_key text) RETURNS integer
LANGUAGE plpython3u STABLE STRICT PARALLEL UNSAFE COST 1000 AS $python$
@BACKEND@
return backend.cluster(plpy, model, train_key)
$python$;
COMMENT ON FUNCTION pgrain.cluster IS
    'which cluster of training rows, by what they do to the model, a row belongs to';

CREATE FUNCTION pgrain.resembles(model text, train_key text) RETURNS text
LANGUAGE plpython3u STABLE STRICT PARALLEL UNSAFE COST 1000 AS $python$
@BACKEND@
return backend.resembles(plpy, model, train_key)
$python$;
COMMENT ON FUNCTION pgrain.resembles IS
    'the class whose typical training row has features most like this row''s, whatever its label';

-- Assembled from sql/*.sql in name order by `pgrain install`; loaded by CREATE EXTENSION alone.
\echo Use "CREATE EXTENSION pgrain CASCADE" to load this file. \quit

-- Nothing in here is looked for anywhere else, whatever lies in the schema that extensions go to.
SET LOCAL search_path TO pg_catalog, pg_temp;

-- Assembled from sql/*.sql in name order by `pgrain install`; loaded by CREATE EXTENSION alone.
\echo Use "CREATE EXTENSION pgrain CASCADE" to load this file. \quit

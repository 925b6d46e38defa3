-- Tables after TPC-H, made by hashes of row numbers: the same at every run, without random().
-- {scale} is the scale factor; at 0.05 lineitem has 300 000 rows.
CREATE SCHEMA tpch;
SET search_path = tpch, public;

-- A number in [0, 1) for row i in column `seed`.
CREATE FUNCTION unit(i bigint, seed bigint) RETURNS float8 LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
 $$ SELECT (hashint8extended($1, $2) & 1125899906842623) / 1125899906842624.0::float8 $$;

CREATE TABLE customer AS
SELECT i AS custkey, 'Customer#' || lpad(i::text, 9, '0') AS name,
       floor(unit(i, 1) * 25)::int AS nationkey,
       round((unit(i, 2) * 10999 - 999)::numeric, 2) AS acctbal,
       (ARRAY['AUTOMOBILE', 'BUILDING', 'FURNITURE', 'HOUSEHOLD', 'MACHINERY'])
       [1 + floor(unit(i, 3) * 5)::int] AS mktsegment,
       ARRAY[unit(i, 4) * 4 - 2, unit(i, 5) * 4 - 2, unit(i, 6) - 0.5] AS x
FROM generate_series(1, (150000 * {scale})::int) AS i;

CREATE TABLE part AS
SELECT i AS partkey, 'Brand#' || 1 + floor(unit(i, 11) * 5)::int AS brand,
       (ARRAY['PROMO', 'STANDARD', 'SMALL', 'ECONOMY'])[1 + floor(unit(i, 12) * 4)::int] AS type,
       round((900 + unit(i, 13) * 1100)::numeric, 2) AS retailprice
FROM generate_series(1, (200000 * {scale})::int) AS i;

CREATE TABLE orders AS
SELECT i AS orderkey, 1 + floor(unit(i, 21) * (150000 * {scale}))::int AS custkey,
       date '1992-01-01' + floor(unit(i, 22) * 2405)::int AS orderdate,
       (ARRAY['1-URGENT', '2-HIGH', '3-MEDIUM', '4-NOT SPECIFIED', '5-LOW'])
       [1 + floor(unit(i, 23) * 5)::int] AS orderpriority
FROM generate_series(1, (1500000 * {scale})::int) AS i;

-- Four items an order on the average. x: quantity, discount, tax, days late.
CREATE TABLE lineitem AS
SELECT *, CASE WHEN quantity / 50.0 + 3 * discount + late / 40.0 > 1.4 THEN 'R'
               WHEN shipdate > date '1995-06-17' THEN 'N' ELSE 'A' END AS returnflag,
       CASE WHEN shipdate > date '1995-06-17' THEN 'O' ELSE 'F' END AS linestatus,
       ARRAY[quantity / 50.0, discount * 10, tax * 10, late / 30.0]::float8[] AS x
FROM (SELECT i AS itemkey, 1 + (i - 1) / 4 AS orderkey,
             1 + floor(unit(i, 31) * (200000 * {scale}))::int AS partkey,
             1 + floor(unit(i, 32) * 50)::int AS quantity,
             round((900 + unit(i, 33) * 100000)::numeric, 2) AS extendedprice,
             round((unit(i, 34) * 0.1)::numeric, 2) AS discount,
             round((unit(i, 35) * 0.08)::numeric, 2) AS tax,
             floor(unit(i, 36) * 90)::int - 30 AS late,
             o.orderdate + 1 + floor(unit(i, 37) * 120)::int AS shipdate
      FROM generate_series(1, (6000000 * {scale})::int) AS i
      JOIN orders AS o ON o.orderkey = 1 + (i - 1) / 4) AS item;

-- What the models learn from: other rows of the same distributions. A fifth of the returned items
-- with a large discount is labelled as accepted: the error that complaints look for.
CREATE TABLE item_train AS
SELECT i AS id, x, CASE WHEN truth = 'R' AND x[2] > 0.6 AND unit(i, 45) < 0.2 THEN 'A'
                        ELSE truth END AS label
FROM (SELECT i, x, CASE WHEN x[1] + 0.3 * x[2] + 0.75 * x[4] + unit(i, 44) * 0.4 > 1.5 THEN 'R'
                        WHEN unit(i, 46) + x[3] > 1 THEN 'N' ELSE 'A' END AS truth
      FROM (SELECT i, ARRAY[(1 + floor(unit(i, 40) * 50)::int) / 50.0, round(unit(i, 41)::numeric, 1),
                            round((unit(i, 42) * 0.8)::numeric, 1),
                            (floor(unit(i, 43) * 90)::int - 30) / 30.0]::float8[] AS x
            FROM generate_series(1, 4000) AS i) AS features) AS labelled;
CREATE TABLE customer_train AS
SELECT i AS id, x, (ARRAY['AUTOMOBILE', 'BUILDING', 'FURNITURE', 'HOUSEHOLD', 'MACHINERY'])
       [CASE WHEN x[1] > 0.6 THEN 1 WHEN x[1] < -0.6 THEN 2 WHEN x[2] > 0.6 THEN 3
             WHEN x[2] < -0.6 THEN 4 ELSE 5 END] AS label
FROM (SELECT i, ARRAY[unit(i, 50) * 4 - 2, unit(i, 51) * 4 - 2, unit(i, 52) - 0.5] AS x
      FROM generate_series(1, 2000) AS i) AS features;

ALTER TABLE customer ADD PRIMARY KEY (custkey);
ALTER TABLE part ADD PRIMARY KEY (partkey);
ALTER TABLE orders ADD PRIMARY KEY (orderkey);
ALTER TABLE lineitem ADD PRIMARY KEY (itemkey);
ALTER TABLE item_train ADD PRIMARY KEY (id);
ALTER TABLE customer_train ADD PRIMARY KEY (id);
CREATE INDEX ON lineitem (orderkey);
CREATE INDEX ON orders (custkey);
VACUUM ANALYZE customer, part, orders, lineitem, item_train, customer_train;

\set n random(1, 1000000000)
INSERT INTO stream (x, hour) SELECT value(:n + i), (:n + i) % 24 FROM generate_series(1, 5) AS i;

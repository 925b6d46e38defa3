-- One session edits, trains, computes, goes back to an earlier version and forth again.
\set id random(1, 1000)
SELECT pgrain.apply('moving', ARRAY(SELECT id::text FROM train WHERE id % 1000 = :id), 'relabel:blue');
CALL pgrain.train('moving');
CALL pgrain.precompute('moving');
\sleep 1 s
SELECT pgrain.activate('moving', version) FROM (
    SELECT version FROM pgrain.versions WHERE model = 'moving' AND ready AND NOT active
    ORDER BY version DESC LIMIT 1) AS earlier;
\sleep 1 s
SELECT pgrain.revert('moving');

-- One session has jobs done that take long, one after the other.
CALL pgrain.train('heavy');
CALL pgrain.precompute('heavy');
\sleep 5 s

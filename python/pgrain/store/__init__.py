"""Tables <-> arrays. Knows SQL and bytes, not mathematics."""

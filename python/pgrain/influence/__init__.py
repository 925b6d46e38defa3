"""Influence: arrays in, arrays out. Knows models; knows nothing of tables, SQL or the wire."""

"""What rows have in common: short predicates over a table's columns."""

"""The library of repairs: what may be done to a training row, by name."""

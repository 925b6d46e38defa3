"""Other public implementations of influence and of label-error detection, on the same models."""

"""Models: feature encoders, architectures in Flax, the loss, training. Arrays in, arrays out."""

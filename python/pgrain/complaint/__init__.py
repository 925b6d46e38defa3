"""What the user says should hold, and the function of the probabilities that it makes."""

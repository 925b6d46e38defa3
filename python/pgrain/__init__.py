"""pgrain: from a wrong number in a query's result to the training rows that made it wrong."""

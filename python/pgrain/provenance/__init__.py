"""The walker: annotation of the query's operators, the capture SQL, and the circuit (numpy).

Nothing here talks to PostgreSQL: `compile` gives SQL text, and `Capture.read` takes packed bytes.
"""

"""Standing queries: what is kept of them, and what a change adds to it."""

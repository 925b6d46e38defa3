"""The query's text as logical operators, checked against PostgreSQL's EXPLAIN.

Structure and expressions come from the query's own text: the pieces that the capture sends back to
PostgreSQL are slices of it, never regenerated SQL.
"""

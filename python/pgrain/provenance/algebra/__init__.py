"""Queries of any nesting: lowered to blocks, captured by one statement, evaluated as a network.

A block is one SELECT, one grouping, one set operation or one LIMIT. Its rows are *possible* rows:
each carries an event, a conjunction of literals (Antova, Jansen, Koch and Olteanu, "Fast and simple
relational processing of uncertain data", ICDE 2008, call such relations U-relations), so that
PostgreSQL joins and filters possible rows as it does any other. What is no conjunction (is there
any row, how many, the least of them) is a gate of the network.
"""

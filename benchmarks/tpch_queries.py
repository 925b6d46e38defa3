"""Queries after TPC-H in which a model has its say, each beside the same without a model call."""

from __future__ import annotations

from dataclasses import dataclass

RETURNED = "pgrain.predict('item', l.x)"
SEGMENT = "pgrain.predict('customer', {0}.x)"


@dataclass(frozen=True)
class Question:
    """A query with {item} and {c}, {d} for what is predicted of an item, of customer c or d.

    `complaint` is what is asked of its answer.
    """

    name: str
    what: str
    text: str
    complaint: str

    @property
    def query(self) -> str:
        return self._filled(RETURNED, SEGMENT)

    @property
    def plain(self) -> str:
        """The same query on stored columns, of which predictions are the model's version."""
        return self._filled("l.returnflag", "{0}.mktsegment")

    @property
    def without(self) -> str:
        """The same query without its model calls: a label that costs nothing where they stand.

        Every row with a value passes, as it may in the provenance: what the capture must read.
        """
        return self._filled("(CASE WHEN l.x IS NOT NULL THEN 'R' END)",
                            "(CASE WHEN {0}.x IS NOT NULL THEN 'BUILDING' END)")

    def _filled(self, item: str, customer: str) -> str:
        return self.text.format(item=item, c=customer.format("c"), d=customer.format("d"))


QUESTIONS = [
    Question("Q6", "a filter, one number",
             "SELECT count(*) AS n, sum(l.extendedprice * l.discount) AS revenue\n"
             "FROM lineitem AS l\n"
             "WHERE {item} = 'R' AND l.discount BETWEEN 0.04 AND 0.08 AND l.quantity < 40",
             "n too low"),
    Question("Q1", "groups by prediction",
             "SELECT {item} AS flag, l.linestatus, sum(l.quantity) AS quantity,\n"
             "       avg(l.discount) AS discount, count(*) AS n\n"
             "FROM lineitem AS l WHERE l.shipdate <= date '1998-09-02' GROUP BY 1, 2",
             "n too low WHERE flag = 'R'"),
    Question("Q3", "three tables joined",
             "SELECT o.orderpriority, count(*) AS n, sum(l.extendedprice * l.discount) AS lost\n"
             "FROM customer AS c JOIN orders AS o ON o.custkey = c.custkey\n"
             "JOIN lineitem AS l ON l.orderkey = o.orderkey\n"
             "WHERE c.nationkey < 8 AND {item} = 'R' GROUP BY o.orderpriority",
             "n too low WHERE orderpriority = '1-URGENT'"),
    Question("Q10", "two models over a join",
             "SELECT c.nationkey, count(*) AS n\n"
             "FROM customer AS c JOIN orders AS o ON o.custkey = c.custkey\n"
             "JOIN lineitem AS l ON l.orderkey = o.orderkey\n"
             "WHERE {c} = 'BUILDING' AND {item} = 'R'\n"
             "  AND o.orderdate >= date '1997-01-01'\n"
             "GROUP BY c.nationkey",
             "n too low WHERE nationkey = 3"),
    Question("Q14", "ratios of filtered sums",
             "SELECT p.brand, 100.0 * sum(l.extendedprice) FILTER (WHERE {item} = 'R')\n"
             "       / nullif(sum(l.extendedprice), 0) AS share\n"
             "FROM lineitem AS l JOIN part AS p ON p.partkey = l.partkey\n"
             "WHERE p.type = 'PROMO' GROUP BY p.brand ORDER BY 1",
             "share too low WHERE brand = 'Brand#2'"),
    Question("Q4", "EXISTS",
             "SELECT o.orderpriority, count(*) AS n FROM orders AS o\n"
             "WHERE o.orderdate >= date '1995-01-01' AND EXISTS (SELECT 1 FROM lineitem AS l\n"
             " WHERE l.orderkey = o.orderkey AND {item} = 'R')\n"
             "GROUP BY o.orderpriority",
             "n too low WHERE orderpriority = '2-HIGH'"),
    Question("Q18", "HAVING over many groups",
             "SELECT o.custkey, count(*) AS n\n"
             "FROM orders AS o JOIN lineitem AS l ON l.orderkey = o.orderkey\n"
             "WHERE {item} = 'R' GROUP BY o.custkey HAVING count(*) >= 12",
             "n too low WHERE custkey < 100"),
    Question("self", "a join that meets only in predictions",
             "SELECT c.nationkey, count(*) AS n FROM customer AS c\n"
             "JOIN customer AS d ON c.nationkey = d.nationkey AND\n"
             "{c} = {d}\nGROUP BY c.nationkey",
             "n too high WHERE nationkey = 3"),
]

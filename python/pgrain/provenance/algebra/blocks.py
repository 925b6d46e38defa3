"""The program of a query: blocks in the order in which they are evaluated.

Names in the capture: block n makes the CTEs ``_pgrain_b{n}`` (base rows of a SELECT),
``_pgrain_e{n}`` (class assignments that pass), ``_pgrain_r{n}`` (possible rows, what an outer query
reads); ``_pgrain_k{i}`` has the distinct values of outer columns for which an inner query is asked.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pgrain.errors import UnsupportedOperator
from pgrain.provenance.annotate import quote as quoted
from pgrain.provenance.stamps import Stamped

# Names of ours never meet a name of the caller's: all begin with "_pgrain_", which is reserved.
ID = "_pgrain_id"        # number of a possible row in its relation
KEY = "_pgrain_k"        # number of the outer values for which an inner query's row stands
# So many keys are looked up in an index, if there is one; for more the whole table is read.
FEW_KEYS = 1000
# Possible rows (base row and class assignment) cost less than what joins: so many make one pair.
PAIRS_A_FACTOR_PAIR = 8


# bool, int8, int2, int4, oid, date
_INT8 = 20
_WHOLE = {_INT8, 21, 23, 26}         # int8, int2, int4, oid
_NO_VALUE = -2 ** 40                 # NULL among narrower integers

_STAND_IN = {16: "false", 20: "0", 21: "0", 23: "0", 26: "0", 1082: "'epoch'::pg_catalog.date"}


class Made(str):
    """An item of FROM, or a condition, that is ours alone: `explain` shows those that spell what
    the caller wrote."""

    __slots__ = ()


@dataclass
class Column:
    """A column that expressions may name.

    cell: number of the block's cell if its value is a number of the circuit; flag: number of the
    block's flag if it is a boolean of the circuit. PostgreSQL knows neither.
    """

    name: str
    oid: int
    cell: int | None = None
    flag: int | None = None
    labelled: bool = False      # shows a predicted class: a possible row for each
    literal: str | None = None  # a constant without a type of its own ('x', NULL)
    virtual: str | None = None  # SQL over predictions that it stands for (inline.py)
    shown: int | None = None    # a text that depends on predictions, which nothing can be made of
    extreme: bool = False       # what is shown is a minimum or maximum

    @property
    def random(self) -> bool:
        return self.cell is not None or self.flag is not None or self.shown is not None


@dataclass
class Relation:
    """Possible rows: the CTE ``cte`` has ID, KEY if `keyed`, and columns
    ``_pgrain_o0``, ``_pgrain_o1``, …

    single: exactly one row for each key (an aggregate without GROUP BY). settled: every possible
    row is there, whatever the predictions are. unique: places of columns that no two rows share the
    values of, () for one row at most; None if none are known.
    """

    block: int
    cte: str
    columns: list[Column]
    keyed: bool
    single: bool = False
    degrees: dict[int, str] = field(default_factory=dict)      # cell -> see linear.py
    settled: bool = False
    unique: tuple[int, ...] | None = None
    # Of counts: SQL of an integer that none of a row is above, over the CTE as ``_pgrain_w``.
    bounds: dict[int, str] = field(default_factory=dict)
    positive: set[int] = field(default_factory=set)     # counts that are never 0
    # Of counts that conditions of a SELECT are about: (id of the Select, alias, name) in its FROM.
    sources: dict[int, tuple] = field(default_factory=dict)
    # Place of a column that depends on predictions -> what to put into `Program.values` so that it
    # is a column of values.
    wishes: dict[int, tuple] = field(default_factory=dict)


@dataclass
class Key:
    """Outer columns that an inner query needs: CTE with KEY, ``_pgrain_c0``, … and, unless they
    are `plain`, ``_pgrain_t`` (their text)."""

    cte: str
    columns: list[tuple[str, str, int]]      # (alias, name, type oid)
    sql: str
    after: int = 0                           # how many blocks it may read

    @property
    def plain(self) -> bool:
        """Whether what is equal is the same, and has a value that stands in for NULL."""
        return all(oid in _STAND_IN for _, _, oid in self.columns)

    @property
    def whole(self) -> bool:
        """Whether its columns are integers, which the capture can bring as they are."""
        return all(oid in _WHOLE for _, _, oid in self.columns)

    def packed(self, names: list[str]) -> list[str]:
        """SQL of int8 values, never NULL, that say what the columns `names` hold."""
        made = []
        for name, (_, _, oid) in zip(names, self.columns, strict=True):
            if oid == _INT8:        # every int8 may be a value
                made += [f"coalesce({name}, 0)", f"({name} IS NULL)::pg_catalog.int4"]
            else:
                made.append(f"coalesce({name}::pg_catalog.int8, {_NO_VALUE})")
        return made

    @property
    def row(self) -> str:
        """Text of the outer columns, by which a base row finds its key."""
        return row_text([f"{quoted(alias)}.{quoted(name)}" for alias, name, _ in self.columns])

    def same(self, source: str) -> list[str]:
        """Conditions that a row of the CTE has the outer columns' values, NULL among them.

        They can be hashed, which IS NOT DISTINCT FROM cannot.
        """
        equal = "OPERATOR(pg_catalog.=)"
        if not self.plain:
            return [f"{source}._pgrain_t {equal} {self.row}"]
        conditions = []
        for number, (alias, name, oid) in enumerate(self.columns):
            mine, theirs = f"{source}._pgrain_c{number}", f"{quoted(alias)}.{quoted(name)}"
            conditions += [f"coalesce({mine}, {_STAND_IN[oid]}) {equal} "
                           f"coalesce({theirs}, {_STAND_IN[oid]})",
                           f"({mine} IS NULL) {equal} ({theirs} IS NULL)"]
        return conditions

    def lateral(self, source: str) -> list[str]:
        """FROM items that make the outer aliases again from a row of the key's CTE."""
        aliases: dict[str, list[str]] = {}
        for number, (alias, name, _) in enumerate(self.columns):
            aliases.setdefault(alias, []).append(f"{source}._pgrain_c{number} AS {quoted(name)}")
        return [f"LATERAL (SELECT {', '.join(made)}) AS {quoted(alias)}"
                for alias, made in aliases.items()]


@dataclass
class Slot:
    """One model call of a SELECT: a variable for each base row. number: over the whole program."""

    number: int
    block: int
    model: str
    argument: str
    mode: str                # "label": one of the assignments; "expanded": a base row for each
                             # class; "proba": predict_proba
    stamped: Stamped | None = None      # if a tuple stamp can stand for its value's digest


@dataclass
class Leaf:
    """A deterministic number of a base row (or group): SQL of float8, evaluated by PostgreSQL."""

    sql: str


@dataclass
class Number:
    """Arithmetic over numbers of the circuit (`gates.arithmetic` trees) and its leaves.

    leaves: ("leaf", i) a Leaf of the block; ("cell", unit, cell) a cell of a unit's row;
    ("proba", slot, class number); ("aggregate", j, part) of the same block, part "count", "sum",
    "avg", "min", "max", "sum given" (that there is something to add); ("condition", j) an Atom of
    the same block.
    """

    tree: tuple
    leaves: list[tuple] = field(default_factory=list)


@dataclass
class Atom:
    """A comparison of numbers of the circuit: true, false or NULL with some probability.

    left operator right; or a flag by itself: operator "flag", left's only leaf says which.
    place: (start, end) in the text, for errors.
    """

    operator: str
    left: Number
    right: Number | None
    place: tuple[int, int] | None = field(default=None, compare=False)


@dataclass
class Aggregate:
    """One aggregate of a grouping.

    where: "base" if flag and value are evaluated on base rows, "entry" if on assignments.
    flag: boolean SQL, never NULL; value: float8 SQL; number: argument that is a number of the
    circuit, of the base row; order: a value whose rank says which values are distinct.
    """

    function: str
    distinct: bool
    flag_base: str | None
    flag_entry: str | None
    value_base: str | None = None
    value_entry: str | None = None
    number: Number | None = None
    distinct_base: str | None = None
    distinct_entry: str | None = None
    as_text: bool = False        # min or max of what is no number: its values go by their ranks
    support: str = ""            # "ranks" or "sums": what it can be is wanted (support.py)
    argument: tuple[str, str] | None = field(default=None, compare=False)    # (where, SQL)


@dataclass
class Support:
    """Values that a number of a row can have.

    from_: FROM items beside a row of its relation as ``_pgrain_w``; value: SQL of one of them, NULL
    among them; known_by: SQL of the number that the network takes it for; too_many: SQL that is -1
    where there are too many, and what is refused then.
    """

    from_: list[str]
    value: str
    known_by: str
    oid: int
    too_many: str | None = None
    refusal: UnsupportedOperator | None = None


@dataclass
class Chosen:
    """A number of a row of unit 0 that a base row gives a value: its cell there, the leaf of the
    value; nullable: NaN, for NULL, is one of the values."""

    cell: int
    leaf: int
    nullable: bool = False


@dataclass
class Detail:
    """A column of base rows that expressions over assignments need, ``_pgrain_d{i}`` there."""

    name: str
    sql: str
    oid: int
    exposes: tuple[str, str]


@dataclass
class Unit:
    """A relation of possible rows in FROM: SQL of the row's number, and whose rows they are.

    by: the key by whose values (`Key.packed`) the reader finds the boolean of a row in place of
    PostgreSQL; code: whether it must be true (1) or false (0).
    """

    id_sql: str
    relation: Relation
    alias: str
    by: Key | None = None
    code: int = 1
    bare: bool = False      # what its rows hang on is counted elsewhere

    @property
    def boolean(self) -> bool:
        """Whether it is the answer of EXISTS, IN, ANY or ALL, which PostgreSQL joins: of its rows
        for each key one is false."""
        return self.by is None and self.alias.startswith("_pgrain_q")

    @property
    def values(self) -> list[str]:
        """SQL of what the capture brings of it for each base row."""
        if self.by is None:
            return [self.id_sql]
        return self.by.packed([f"{quoted(alias)}.{quoted(name)}"
                               for alias, name, _ in self.by.columns])


@dataclass
class SelectBlock:
    """Base rows: FROM and WHERE without the model calls; the rest is for each assignment."""

    number: int
    key: Key | None = None
    from_: list[str] = field(default_factory=list)      # `Made`, where the caller wrote no such
    where: list[str] = field(default_factory=list)      # likewise
    # Columns of tables that a condition says to equal a column of the key: (SQL, its number).
    tied: list[tuple[str, int]] = field(default_factory=list)
    units: list[Unit] = field(default_factory=list)
    slots: list[Slot] = field(default_factory=list)
    details: list[Detail] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)       # conditions for each assignment
    cells: list[Number] = field(default_factory=list)    # numbers of each base row
    flags: list[Atom] = field(default_factory=list)      # booleans of each base row
    shown: list[int] = field(default_factory=list)       # units whose array each base row shows
    atoms: list[Atom] = field(default_factory=list)      # joined as ``_pgrain_t{i}``
    leaves: list[Leaf] = field(default_factory=list)
    outputs: list = field(default_factory=list)          # OutputSpec
    grouping: Grouping | None = None
    order: list[str] = field(default_factory=list)       # ORDER BY terms over ``o{i}``
    # How many of the atoms and units WHERE and GROUP BY have; the others only aggregates read.
    decisive: tuple[int, int] | None = None
    chosen: list[Chosen] = field(default_factory=list)      # numbers as values (values.py)
    # Leaves that are -1 where a number can have too many values, and what is refused then.
    too_many: list[tuple[int, UnsupportedOperator]] = field(default_factory=list)
    among: int | None = None        # cell of unit 0 that the row gives a place (values.py)
    kind: str = "select"

    @property
    def base(self) -> str:
        return f"_pgrain_b{self.number}"

    @property
    def entry(self) -> str:
        return f"_pgrain_e{self.number}"

    @property
    def row(self) -> str:
        return f"_pgrain_r{self.number}"

    @property
    def enumerated(self) -> list[Slot]:
        """The slots whose classes are assigned."""
        return [slot for slot in self.slots if slot.mode == "label"]

    @property
    def settled(self) -> bool:
        """Whether which base rows there are does not hang on predictions."""
        return not self.chosen and self.among is None \
            and self._settled(len(self.atoms), len(self.units))

    @property
    def settled_groups(self) -> bool:
        """Whether which rows the groups have does not: what aggregates compare alone makes copies
        of the rows, one for each outcome."""
        atoms, units = self.decisive or (len(self.atoms), len(self.units))
        return self._settled(atoms, units) and all(
            unit.relation.settled or unit.boolean for unit in self.units[units:])

    def _settled(self, atoms: int, units: int) -> bool:
        return not self.mixed and not atoms and all(
            slot.mode != "expanded" for slot in self.slots) and all(
            unit.relation.settled and unit.by is None for unit in self.units[:units])

    @property
    def one_copy(self) -> str:
        """SQL that holds for one of the copies of each row, "" if there are none."""
        atoms, units = self.decisive or (len(self.atoms), len(self.units))
        names = [f"_pgrain_t{number}" for number in range(atoms, len(self.atoms))]
        names += [unit.alias for unit in self.units[units:] if not unit.relation.settled]
        return " AND ".join(f"{name}._pgrain_v IS FALSE" for name in names)

    @property
    def simple(self) -> bool:
        """Whether a row's pattern says no more than which of its labels are NULL (a bit each)."""
        # Groups by labels under keys are made of assignments, which must know the key, too.
        return not self.details and not (self.key is not None and self.grouping is not None
                                         and self.grouping.by_entry)


@dataclass
class OutputSpec:
    """One output column of a SELECT without grouping, or of its grouping.

    where: "base", "entry" (depends on labels), "constant", "key" (a grouping key), "fixed" (over
    aggregates that no prediction moves), "cell", "flag".
    """

    column: Column
    where: str
    sql: str | None = None


@dataclass
class Grouping:
    """GROUP BY and aggregates over a SelectBlock's rows.

    keys: (where, SQL) with where "base" or "entry"; by: the GROUP BY clause over ``g{i}``, "" for
    one group; atoms and having: HAVING with its atoms as ``_pgrain_h{i}.v``. fixed: SQL over base
    rows, ``_pgrain_z{i}`` there, of which PostgreSQL computes aggregates itself.
    """

    keys: list[tuple[str, str]] = field(default_factory=list)
    by: str | None = None
    sets: bool = False
    aggregates: list[Aggregate] = field(default_factory=list)
    atoms: list[Atom] = field(default_factory=list)
    leaves: list[tuple[str, str]] = field(default_factory=list)     # (where, SQL of float8)
    having: str | None = None
    having_leaves: list[tuple[str, str]] = field(default_factory=list)
    cells: list[Number] = field(default_factory=list)
    flags: list[Atom] = field(default_factory=list)
    # Texts: number of an aggregate (min of a date), or -1 - number of a case (SQL, its atoms).
    shown: list[int] = field(default_factory=list)
    cases: list[tuple[str, list[int]]] = field(default_factory=list)
    fixed: list[str] = field(default_factory=list)

    @property
    def by_entry(self) -> bool:
        return any(where == "entry" for where, _ in self.keys)


@dataclass
class PredicateBlock:
    """EXISTS, IN, ANY, ALL: a boolean for each key.

    true, unknown: SELECTs of (KEY, ID) of the rows for which the comparison is true, or NULL.
    """

    number: int
    relation: Relation
    key: Key | None
    true: str
    unknown: str | None
    every: bool = False          # true for every row there is: EXISTS
    joined: bool = True          # to what asks it by PostgreSQL (see Unit.by)
    kind: str = "predicate"

    def of_rows(self, inner) -> bool:
        """Whether the base rows of `inner`, the relation's block, say which rows are whose."""
        return self.every and inner.kind == "select" and inner.grouping is None


@dataclass
class ScalarBlock:
    """A scalar subquery's rows, and a NULL row for each key: there where no other is."""

    number: int
    relation: Relation
    key: Key | None
    kind: str = "scalar"


@dataclass
class ArrayBlock:
    """ARRAY(…): the rows of `relation` (in the order of its LimitBlock) as elements."""

    number: int
    relation: Relation
    key: Key | None
    kind: str = "array"


@dataclass
class MergeBlock:
    """DISTINCT and set operations: rows that are equal, merged."""

    number: int
    operator: str                # "distinct", "union", "intersect", "except"
    all: bool
    sides: list[Relation]
    keyed: bool
    columns: list[Column]
    kind: str = "merge"


@dataclass
class LimitBlock:
    """LIMIT, OFFSET, WITH TIES, DISTINCT ON: rows in order, of which some are kept."""

    number: int
    relation: Relation
    order: str
    limit: int | None
    offset: int
    partition: str = ""
    ties: bool = False
    kind: str = "limit"


@dataclass
class Bound:
    """LIMIT where nothing certain orders the rows: all that are possible must be kept.

    refusal: what to raise if there are more.
    """

    block: int
    limit: int
    refusal: UnsupportedOperator


def gapped(blocks: list) -> set[int]:
    """SELECTs whose possible row of base row b under assignment e has the number b * E + e.

    Some of these numbers are no row's, so nobody may count on their order: LIMIT, a scalar
    subquery and ARRAY do.
    """
    counted = {block.relation.block for block in blocks
               if block.kind in ("limit", "scalar", "array")}
    return {block.number for block in blocks
            if block.kind == "select" and block.grouping is None and block.enumerated
            and block.simple and block.number not in counted}


def lean(blocks: list) -> set[int]:
    """SELECTs whose rows only EXISTS asks for: nobody needs to name one of them."""
    made = gapped(blocks)
    return {block.relation.block for block in blocks if block.kind == "predicate"
            and block.relation.block in made
            and block.of_rows(next(b for b in blocks if b.number == block.relation.block))}


def row_text(columns: list[str]) -> str:
    """SQL for a text that tells rows of these columns apart."""
    return f'(ROW({", ".join(columns)})::pg_catalog.text COLLATE "C")'

"""One setting of the paper's section 6.1 as arrays: data, error, queries, each with its truth.

The queries are those of table 1, in the library's terms: the relaxed value's gradient with respect
to the class probabilities of the queried rows. That this is what the SQL surface does with the same
query is shown by the experiment `surface`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from pgrain.demo import census, cifar10, corruptions, digits, reviews
from pgrain.demo.datasets import DatasetMissing, Images, fashion_mnist
from pgrain.demo.feature_errors import ERRORS, damage, median_denoise
from pgrain.demo.label_errors import flip_class, flip_classes, flip_where, permute
from pgrain.models.encoding import Encoder

TROUSER = corruptions.TROUSER
AUTOMOBILE, HORSE = map(cifar10.CLASSES.index, ("automobile", "horse"))
FLIPS = {"mnist": (1, 7), "fashion": (TROUSER, corruptions.SNEAKER), "adult": (0, 1),
         "reviews": (0, 1), "cifar10": (AUTOMOBILE, HORSE)}
"""Table 2: from which class to which."""
TWO_FLIPS = ((1, 7), (4, 9))
"""Section 6.8.3."""
FILTERED = {"mnist": 1, "fashion": TROUSER, "adult": 1, "reviews": 1, "cifar10": AUTOMOBILE}
"""The class that Q3 filters on (section 6.3)."""


@dataclass(frozen=True)
class Setting:
    """What one measurement depends on; equal settings give equal records."""

    data: str
    architecture: str
    error: str
    """"flip" (table 2), "flip2" (1 -> 7 and 4 -> 9), "bright" (our demo's), "male_private"
    (table 3), "salt_and_pepper", "gaussian_blur", "none"; controls: "permuted",
    "marked"."""
    rate: float = 0.0
    systematic: bool = True
    """Feature errors: in one class (that of Q3), or in all."""
    seed: int = 0
    rows: int = 8000
    queries: tuple[str, ...] = ("Q3",)
    """Judged with every baseline. "Q1", "Q1:a-b" (true labels a joined with b), "Q2:a,b",
    "Q3", "Q3:c", "Q4" ... "Q7"; ours: "Q3:a-b" (two complaints at once: too few a, too many b),
    "Q3:b@a" (how many that are truly a are taken for b)."""
    swept: tuple[str, ...] = ()
    """More queries, judged by Rain++ alone."""
    pairs: int = 30
    sample: int = 10_000
    cg: int = 0
    """Conjugate-gradient steps of the baseline `rain`; 0: leave it out."""
    baselines: bool = True
    denoise: bool = False
    """Also judge the replacement of every picture by its denoised self (section 6.9)."""
    queried: int = 0
    """Rows of the inference relation, the first ones; 0: all there are."""
    peers: tuple[str, ...] = ()
    """Other implementations to be judged beside it, in an environment of their own (`lds`); of the
    jobs of `peers` those that are asked, if not all."""
    options: tuple[tuple[str, object], ...] = ()
    """Options of the architecture and of training."""

    def as_json(self) -> dict:
        found = asdict(self)
        found["queries"], found["swept"] = list(self.queries), list(self.swept)
        found["options"] = {name: list(value) if isinstance(value, tuple) else value
                            for name, value in self.options}
        # Left out where they say nothing, so that records from before they were thought of count.
        for name in ("queried", "peers"):
            if not found[name]:
                del found[name]
        if self.peers:
            found["peers"] = list(self.peers)
        return found


@dataclass(frozen=True)
class Query:
    """value: classes (V,) -> the query's value; gradient: p (V, R) -> d relaxed / dp (V, R);
    relaxed: p -> the relaxed value; truth: its value on the true labels; classes: those whose
    number the query counts, for the rule that needs no influence (None: there is no such rule);
    about: the classes that it is about, where it is no such number."""

    name: str
    value: Callable[[np.ndarray], float]
    relaxed: Callable[[np.ndarray], float]
    gradient: Callable[[np.ndarray], np.ndarray]
    truth: float
    classes: tuple[int, ...] | None
    about: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Case:
    """The arrays of a setting. X, y: what the model learns; wrong: (N,) bool, the truth about it;
    clean_X, clean_y: without the error; query_X, query_y: the inference relation and its true
    labels; people: the same rows of ADULT as dicts, else None; denoised: X after the repair."""

    n_classes: int
    X: np.ndarray
    y: np.ndarray
    wrong: np.ndarray
    clean_X: np.ndarray
    clean_y: np.ndarray
    query_X: np.ndarray
    query_y: np.ndarray
    people: census.People | None = None
    denoised: np.ndarray | None = None
    n_tokens: int = 0
    """Texts: how many numbers a word can have."""

    def query(self, name: str, data: str) -> Query:
        return _query(self, name, data)


def load(setting: Setting) -> Case:
    """The setting's arrays. `DatasetMissing` if the data set was never fetched."""
    if setting.data == "adult":
        return _adult(setting)
    if setting.data == "reviews":
        return _reviews(setting)
    train, query = _pictures(setting.data)
    queried = setting.queried or len(query)
    train = Images(train.pixels[:setting.rows], train.labels[:setting.rows])
    query = Images(query.pixels[:queried], query.labels[:queried])
    n = len(train)
    pixels, labels, wrong = train.pixels, train.labels, np.zeros(n, bool)
    source, target = FLIPS[setting.data]
    if setting.error == "flip":
        bad = flip_class(labels, source, target, setting.rate, setting.seed)
        labels, wrong = bad.labels, bad.wrong
    elif setting.error == "flip2":
        bad = flip_classes(labels, list(TWO_FLIPS), setting.rate, setting.seed)
        labels, wrong = bad.labels, bad.wrong
    elif setting.error == "bright":
        bright = corruptions.bright(train, setting.seed)
        labels, wrong = bright.labels, bright.wrong
    elif setting.error in ERRORS:
        only = FILTERED[setting.data] if setting.systematic else None
        spoiled = damage(pixels, labels, setting.error, setting.rate, setting.seed, only=only)
        pixels, wrong = spoiled.pixels, spoiled.wrong
    elif setting.error == "permuted":
        labels, wrong = permute(labels, setting.seed), _marked(n, setting.seed)
    elif setting.error == "marked":
        wrong = _marked(n, setting.seed)
    elif setting.error != "none":
        raise ValueError(f'no error "{setting.error}" for pictures')
    return Case(10, _channels(pixels), labels.astype(np.int32), wrong, _channels(train.pixels),
                train.labels.astype(np.int32), _channels(query.pixels),
                query.labels.astype(np.int32),
                denoised=_channels(median_denoise(pixels)) if setting.denoise else None)


def _channels(pixels: np.ndarray) -> np.ndarray:
    """(N, H, W, C): grey pictures have one channel."""
    return pixels if pixels.ndim == 4 else pixels[..., None]


def _marked(n: int, seed: int) -> np.ndarray:
    """A control: a tenth of the rows, whichever, is called wrong although nothing is the matter."""
    return np.random.default_rng(seed + 1).random(n) < 0.1


@functools.cache
def _pictures(data: str) -> tuple:
    """Training and queried pictures, each with `pixels` and `labels`."""
    readers = {"mnist": digits.mnist_split,
               "fashion": lambda: (fashion_mnist("train"), fashion_mnist("t10k")),
               "cifar10": lambda: (cifar10.cifar10("train"), cifar10.cifar10("test"))}
    if data not in readers:
        raise DatasetMissing(f'there is no data set "{data}"')
    return readers[data]()


@functools.lru_cache(maxsize=4)
def _people(rows: int) -> tuple:
    train, query = census.adult_split()
    train = train.part(slice(rows))
    encoder = Encoder.fit("columns", train.features, list(census.COLUMNS), {})
    return train, query, encoder.encode(train.features), encoder.encode(query.features)


def _adult(setting: Setting) -> Case:
    train, query, X, query_X = _people(setting.rows)
    labels = train.labels
    source, target = FLIPS["adult"]
    if setting.error == "flip":
        bad = flip_class(labels, source, target, setting.rate, setting.seed)
    elif setting.error == "male_private":
        chosen = train.where(gender="Male", workclass="Private")
        bad = flip_where(labels, chosen, source, target, setting.rate, setting.seed)
    elif setting.error == "none":
        bad = flip_class(labels, source, target, 0.0, setting.seed)
    else:
        raise ValueError(f'no error "{setting.error}" for ADULT')
    return Case(2, X, bad.labels.astype(np.int32), bad.wrong, X, labels.astype(np.int32), query_X,
                query.labels.astype(np.int32), people=query)


def _reviews(setting: Setting) -> Case:
    """The sentences themselves, as a list: the lstm's encoder turns them into tokens."""
    train, query = reviews.reviews_split()
    train = train.part(slice(setting.rows))
    options = {name: list(v) if isinstance(v, tuple) else v for name, v in setting.options}
    encoder = Encoder.fit("text", train.texts, ["text"], options)
    source, target = FLIPS["reviews"]
    rate = setting.rate if setting.error == "flip" else 0.0
    bad = flip_class(train.labels, source, target, rate, setting.seed)
    X = encoder.encode(train.texts)
    return Case(2, X, bad.labels.astype(np.int32), bad.wrong, X, train.labels.astype(np.int32),
                encoder.encode(query.texts), query.labels.astype(np.int32),
                n_tokens=encoder.n_tokens())


# --- the queries of table 1 ----------------------------------------------------------------------

def _query(case: Case, name: str, data: str) -> Query:
    kind, _, argument = name.partition(":")
    if kind == "Q1":
        return _join(case, name, argument)
    if kind == "Q2":
        return _count(case, name, tuple(int(c) for c in argument.split(",")))
    if kind == "Q3" and "@" in argument:
        return _taken_for(case, name, *(int(c) for c in argument.split("@")))
    if kind == "Q3" and "-" in argument:
        return _two_counts(case, name, *(int(c) for c in argument.split("-")))
    if kind == "Q3":
        return _count(case, name, (int(argument) if argument else FILTERED[data],))
    if kind in ("Q4", "Q5", "Q6", "Q7") and case.people is not None:
        conditions = {"Q4": {"workclass": "Private", "gender": "Male"},
                      "Q5": {"workclass": "Private"}, "Q6": {"gender": "Male"}, "Q7": {}}[kind]
        return _average(case, name, case.people.where(**conditions))
    raise ValueError(f'no query "{name}" for {data}')


def _count(case: Case, name: str, classes: tuple[int, ...]) -> Query:
    """COUNT(*) WHERE predict(x) IN (classes)."""
    column = np.isin(np.arange(case.n_classes), classes).astype(float)

    def value(predicted):
        return float(np.isin(predicted, classes).sum())

    return Query(name, value, lambda p: float((p @ column).sum()),
                 lambda p: np.broadcast_to(column, p.shape), value(case.query_y), classes)


def _two_counts(case: Case, name: str, few: int, many: int) -> Query:
    """Complaints that hold together, "too few of one class" and "too many of another": their
    objectives add up to the difference of the counts, up to the scales."""
    columns = np.eye(case.n_classes)[many] - np.eye(case.n_classes)[few]

    def value(predicted):
        return float((predicted == many).sum() - (predicted == few).sum())

    return Query(name, value, lambda p: float((p @ columns).sum()),
                 lambda p: np.broadcast_to(columns, p.shape), value(case.query_y), None,
                 (few, many))


def _taken_for(case: Case, name: str, taken: int, truly: int) -> Query:
    """COUNT(*) WHERE predict(x) = taken AND truth = truly: a column says what is right."""
    rows = case.query_y == truly
    return Query(name, lambda predicted: float((rows & (predicted == taken)).sum()),
                 lambda p: float(p[rows, taken].sum()),
                 lambda p: np.outer(rows, np.eye(case.n_classes)[taken]), 0.0, None,
                 (taken, truly))


def _average(case: Case, name: str, rows: np.ndarray) -> Query:
    """AVG(predict(x)) of classes 0 and 1 over some rows."""
    weight = rows / rows.sum()
    return Query(name, lambda predicted: float(weight @ predicted),
                 lambda p: float(weight @ p[:, 1]), lambda p: np.outer(weight, [0.0, 1.0]),
                 float(weight @ case.query_y), (1,))


def _join(case: Case, name: str, argument: str) -> Query:
    """COUNT(*) FROM left, right WHERE predict(left) = predict(right); the sides are rows of
    disjoint true classes, so the truth is 0. sum_j (sum_l p_lj)(sum_r p_rj) is exact: no row is on
    both sides."""
    left, right = ((range(case.n_classes // 2), range(case.n_classes // 2, case.n_classes))
                   if not argument else [[int(side)] for side in argument.split("-")])
    sides = np.isin(case.query_y, list(left)), np.isin(case.query_y, list(right))

    def value(predicted):
        counts = [np.bincount(predicted[side], minlength=case.n_classes) for side in sides]
        return float(counts[0] @ counts[1])

    def relaxed(p):
        return float(p[sides[0]].sum(0) @ p[sides[1]].sum(0))

    def gradient(p):
        return (np.outer(sides[0], p[sides[1]].sum(0)) + np.outer(sides[1], p[sides[0]].sum(0)))

    return Query(name, value, relaxed, gradient, 0.0, None)

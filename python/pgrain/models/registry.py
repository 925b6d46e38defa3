"""Architectures by name, and `Model`: a network as a function of one flat parameter vector."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.flatten_util import ravel_pytree

from pgrain.errors import InvalidArgument, UnsupportedOperator
from pgrain.models import cnn, custom, logistic_regression, lstm, mlp
from pgrain.models.options import check, pick
from pgrain.models.wide_resnet import Family as WideResNet

# A family has OPTIONS, DEFAULTS, INPUT ("any", "image" or "tokens") and `module(...)`.
ARCHITECTURES = {
    "logistic_regression": logistic_regression,
    "mlp": mlp,
    "cnn": cnn,
    "wide_resnet_10": WideResNet(10),
    "wide_resnet_18": WideResNet(18),
    "wide_resnet_26": WideResNet(26),
    "lstm": lstm,
}
NETWORKS = 12       # different ones, before what was compiled for all so far is let go
PROGRAMS = 300      # that were compiled, likewise
_forgotten = 0      # networks built until then
_programs = _programs_then = 0


@dataclass(frozen=True, eq=False)
class Model:
    """A network without its parameters: pure functions of a flat theta (d,) float32.

    Compared and hashed by identity, so that it can be a static argument of jitted functions;
    `build` returns the same object for the same arguments, so nothing is compiled twice.

    row_floats: floats that one row's forward pass produces, which chunk sizes are computed from.
    """

    architecture: str
    n_classes: int
    n_parameters: int
    input_shape: tuple[int, ...]
    options: dict
    row_floats: int
    module: nn.Module = field(repr=False)
    unravel: Callable = field(repr=False)
    input: str = "any"
    keywords: dict = field(default_factory=dict)
    n_tokens: int = 0

    def init(self, seed: int) -> jax.Array:
        """Fresh parameters: (d,) float32, flat in the order of `ravel_pytree`."""
        return _initialiser(self)(jax.random.PRNGKey(seed))

    def logits(self, theta: jax.Array, X: jax.Array) -> jax.Array:
        """(N, R) float32. X: (N, *input_shape), uint8 (scaled to [0, 1] here), float32, or int32
        (numbers of words)."""
        X = jnp.asarray(X)
        if self.input != "tokens":
            X = X.astype(jnp.float32) / 255 if X.dtype == jnp.uint8 else X.astype(jnp.float32)
        if self.input == "image" and X.ndim == 3:
            X = X[..., None]
        return self.module.apply({"params": self.unravel(theta)}, X, **self.keywords)

    def shapes(self) -> dict:
        """What is stored with a version: shapes of one input and of each parameter by name."""
        tree = self.to_pytree(np.zeros(self.n_parameters, np.float32))
        return {"input": list(self.input_shape), "classes": self.n_classes,
                "parameters": {name: list(value.shape) for name, value in sorted(tree.items())}}

    def to_pytree(self, theta) -> dict[str, np.ndarray]:
        """theta as {"layer.kernel": array, ...}, the form that safetensors stores."""
        flat = flatten_dict(self.unravel(jnp.asarray(theta, jnp.float32)), sep=".")
        return {name: np.asarray(value) for name, value in flat.items()}

    def from_pytree(self, tree: dict[str, np.ndarray]) -> jax.Array:
        """The inverse of `to_pytree`; 22023 if names or shapes are not this model's."""
        wanted = self.to_pytree(np.zeros(self.n_parameters, np.float32))
        for name in sorted(wanted.keys() | tree.keys()):
            if name not in tree or name not in wanted:
                raise InvalidArgument(f'weights do not fit: "{name}" is '
                                      + ("missing" if name not in tree else "not a layer"))
            if np.shape(tree[name]) != wanted[name].shape:
                raise InvalidArgument(
                    f'weights do not fit: "{name}" has shape {list(np.shape(tree[name]))}, '
                    f"not {list(wanted[name].shape)}")
        nested = unflatten_dict({n: jnp.asarray(v, jnp.float32) for n, v in tree.items()}, sep=".")
        return ravel_pytree(nested)[0]


def build(architecture: str, n_classes: int, input_shape: tuple[int, ...], options: dict, *,
          n_tokens: int = 0) -> Model:
    """The model of an architecture.

    options: may hold encoder and training options too (they are ignored here; `check_options`
    refuses names that nobody knows). n_tokens: for text, how many numbers a word can have. 22023
    for a bad value or fewer than two classes, 0A000 for an architecture that does not exist.
    """
    family = _family(architecture)
    if n_classes < 2:
        raise InvalidArgument(f"a model needs at least 2 classes, not {n_classes}",
                              hint="Look at the label column of the training table.")
    own = {**family.DEFAULTS, **pick(options, family.OPTIONS)}
    own = check(own, family.OPTIONS, what=f'architecture "{architecture}"')
    return _build(architecture, int(n_classes), tuple(int(n) for n in input_shape),
                  json.dumps(own, sort_keys=True), int(n_tokens))


def forget_compiled() -> bool:
    """Where `NETWORKS` different ones have been built or `PROGRAMS` compiled since the last time,
    free what JAX has compiled: it keeps that for good, some 20 MiB a network, also of networks that
    nobody has any more (another vocabulary is another network) and for numbers of rows, of steps
    and of eigenpairs that do not come again. What is needed again is compiled again."""
    global _forgotten, _programs_then
    built, programs = _build.cache_info().misses, _programs
    if built - _forgotten < NETWORKS and programs - _programs_then < PROGRAMS:
        return False
    _forgotten, _programs_then = built, programs
    jax.clear_caches()
    return True


def _count(event: str, seconds: float, **_) -> None:
    global _programs
    if event == "/jax/core/compile/backend_compile_duration":
        _programs += 1


jax.monitoring.register_event_duration_secs_listener(_count)


def build_for(architecture: str, n_classes: int, encoder, options: dict) -> Model:
    """`build` for what an `encoding.Encoder` gives."""
    return build(architecture, n_classes, encoder.input_shape(), options,
                 n_tokens=encoder.n_tokens())


@functools.lru_cache(maxsize=64)
def _build(architecture: str, n_classes: int, input_shape: tuple[int, ...], options: str,
           n_tokens: int) -> Model:
    family, own = _family(architecture), json.loads(options)
    if n_tokens and family is not lstm and ":" not in architecture:
        raise InvalidArgument(f'architecture "{architecture}" does not read text',
                              hint='Use "lstm", or a module of your own.')
    module = family.module(n_classes, input_shape, {**own, "n_tokens": n_tokens})
    kind = "tokens" if n_tokens else getattr(family, "INPUT", "any")
    if kind == "image" and len(input_shape) == 2:
        input_shape = (*input_shape, 1)
    x = jnp.zeros((1, *input_shape), _dtype(kind))
    keywords = custom.keywords(module)
    shapes = custom.parameters(module, x, keywords, n_classes)
    tree = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    theta, unravel = ravel_pytree(tree)
    forward = jax.make_jaxpr(lambda x: module.apply({"params": tree}, x, **keywords))(x)
    return Model(architecture, n_classes, theta.size, input_shape, own,
                 _floats(forward.jaxpr) + math.prod(input_shape), module, unravel, kind, keywords,
                 n_tokens)


@functools.lru_cache(maxsize=32)
def _initialiser(model: Model) -> Callable[[jax.Array], jax.Array]:
    """Random key -> theta, compiled once a model. It runs once a training, and the machine code of
    random numbers takes long to optimise: on a CPU it is left as it is (wide_resnet_10: 3 s in
    place of 12; the weights differ by rounding, up to 1e-7)."""
    def init(key):
        x = jnp.zeros((1, *model.input_shape), _dtype(model.input))
        return ravel_pytree(model.module.init(key, x, **model.keywords)["params"])[0]

    quick = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(init, compiler_options=quick)


def _dtype(kind: str):
    return jnp.int32 if kind == "tokens" else jnp.float32


def _floats(jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        total += sum(math.prod(v.aval.shape) for v in equation.outvars if hasattr(v.aval, "shape"))
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", None)
            if inner is not None and hasattr(inner, "eqns"):
                total += times * _floats(inner)
    return total


def _family(architecture: str):
    if ":" in architecture:
        return custom.family(architecture)
    if architecture not in ARCHITECTURES:
        raise UnsupportedOperator(f'architecture "{architecture}" does not exist',
                                  hint="Architectures are: " + ", ".join(ARCHITECTURES) + ".")
    return ARCHITECTURES[architecture]


def check_options(architecture: str, options: dict) -> dict:
    """All options of a model (network, encoder, training), checked; 22023, 0A000."""
    from pgrain.models import encoding, training

    allowed = {**_family(architecture).OPTIONS, **encoding.OPTIONS, **training.OPTIONS}
    return check(options, allowed, what=f'architecture "{architecture}"')

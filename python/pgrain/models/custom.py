"""A user's own Flax module, named by its import path `package.module:Class`.

The class is called as `Class(n_classes=R, **arguments)`, with `arguments` an option of the model,
and maps a batch (N, *input_shape) float32 (text: int32) to logits (N, R). It must be a function of
its parameters and of each row alone:

1. Only the collection "params" is allowed: batch statistics are no parameters, and make a row's
   loss depend on other rows (see `wide_resnet.py`). Whether rows of a batch are mixed in other ways
   is tried out when it is trained (`check_rows_alone`).
2. It runs as at inference, also while it is trained, so that the loss that is minimised is the loss
   that influence sees: a keyword `train`, `training` or `deterministic` of its `__call__` is set
   accordingly, and a module that still asks for random numbers is refused.

Whoever may create models chooses which importable class the worker runs; the code itself has to be
installed in the worker's environment by whoever runs the worker, who can restrict it to packages of
their choice (`allow`).
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
from collections.abc import Callable, Sequence

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from pgrain.errors import InsufficientPrivilege, InvalidArgument, UnsupportedOperator
from pgrain.models.options import Option

PATH = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*)*:[A-Za-z]\w*\Z")
_INFERENCE = {"train": False, "training": False, "deterministic": True}
_allowed: tuple[str, ...] | None = None


def allow(packages: Sequence[str] | None) -> None:
    """Restrict user modules to these packages (and what is in them); None: all that can be
    imported."""
    global _allowed
    _allowed = None if packages is None else tuple(packages)


class Family:
    """A user's class as `registry` expects an architecture."""

    INPUT = "any"
    OPTIONS = {"arguments": Option("arguments", "object",
                                   "what the class is called with, beside n_classes")}
    DEFAULTS: dict = {"arguments": {}}

    def __init__(self, path: str, cls: type):
        self.path, self._class = path, cls

    def module(self, n_classes: int, input_shape: tuple[int, ...], options: dict) -> nn.Module:
        """An instance; 22023 where the class does not take the arguments."""
        try:
            return self._class(n_classes=n_classes, **options["arguments"])
        except TypeError as error:
            raise InvalidArgument(
                f'class "{self.path}" cannot be made', detail=str(error),
                hint="It is called with n_classes and the option arguments.") from error


def family(path: str) -> Family:
    """The class behind `package.module:Class`; 22023 if it cannot be imported or is no Flax
    module, 42501 if it is outside of the allowed packages."""
    if not PATH.match(path):
        raise InvalidArgument(f'no such architecture: "{path}"',
                              hint='A module of your own is named "package.module:Class".')
    module_name = path.split(":")[0]
    if _allowed is not None and not any(
            module_name == p or module_name.startswith(p + ".") for p in _allowed):
        raise InsufficientPrivilege(
            f'the worker may not import "{module_name}"',
            detail="It was started with --modules " + ",".join(_allowed) + ".")
    return _imported(path)


@functools.lru_cache(maxsize=64)
def _imported(path: str) -> Family:
    module_name, class_name = path.split(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:      # a user's code may raise anything
        raise InvalidArgument(
            f'module "{module_name}" cannot be imported by the worker',
            detail=f"{type(error).__name__}: {error}",
            hint="Install it in the worker's environment (or put it on its PYTHONPATH) and start "
                 "the worker again.") from error
    cls = getattr(module, class_name, None)
    if not (inspect.isclass(cls) and issubclass(cls, nn.Module)):
        raise InvalidArgument(f'"{path}" is no Flax module',
                              detail="It must be a subclass of flax.linen.Module.")
    return Family(path, cls)


def keywords(module: nn.Module) -> dict:
    """The keywords of `__call__` that make it run as at inference."""
    known = inspect.signature(type(module).__call__).parameters
    return {name: value for name, value in _INFERENCE.items() if name in known}


def parameters(module: nn.Module, x: jax.Array, inference: dict, n_classes: int):
    """The shapes of the module's parameters, as a pytree; refuses what influence cannot see.

    0A000 for other collections than "params" and for random numbers, 22023 for an output that is
    not (N, R) or a call that fails.
    """
    name = type(module).__name__
    try:
        init = functools.partial(module.init, **inference)
        variables = jax.eval_shape(init, jax.random.PRNGKey(0), x)
        tree = variables.get("params", {})
        others = sorted(set(variables) - {"params"})
        if others:
            raise UnsupportedOperator(
                f'module "{name}" has state that is no parameter: {", ".join(others)}',
                hint="Use GroupNorm or LayerNorm in place of BatchNorm.")
        two = jnp.zeros((2, *x.shape[1:]), x.dtype)
        out = jax.eval_shape(functools.partial(module.apply, **inference),
                             {"params": tree}, two)
    except flax.errors.InvalidRngError as error:
        raise UnsupportedOperator(
            f'module "{name}" draws random numbers at inference',
            detail=str(error).split("\n")[0],
            hint="Let __call__ take deterministic (or train), and draw none then.") from error
    except UnsupportedOperator:
        raise
    except Exception as error:      # a user's code may raise anything
        raise InvalidArgument(
            f'module "{name}" does not take values of shape {list(x.shape[1:])}',
            detail=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        ) from error
    if not jax.tree.leaves(tree):
        raise InvalidArgument(f'module "{name}" has no parameters')
    if getattr(out, "shape", None) != (2, n_classes):
        raise InvalidArgument(f'module "{name}" gives values of shape '
                              f'{list(getattr(out, "shape", []))[1:]}, not {n_classes} logits')
    return tree


def check_rows_alone(architecture: str, logits: Callable, X) -> None:
    """0A000 for a network whose logits for a row depend on the other rows of the batch.

    logits: (n, *input_shape) -> (n, R). X: training rows, of which three are tried.
    """
    some = X[[0, len(X) // 2, len(X) - 1]]
    alone = np.concatenate([np.asarray(logits(some[i:i + 1])) for i in range(len(some))])
    together = np.asarray(logits(some))
    if np.abs(together - alone).max() > 1e-3 * np.abs(alone).max():
        raise UnsupportedOperator(
            f'module "{architecture}" mixes the rows of a batch',
            detail="What it says of a row changes with the rows beside it, so that no row's loss "
                   "is its own.",
            hint="Use GroupNorm or LayerNorm in place of statistics over the batch.")

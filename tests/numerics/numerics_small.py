"""Small models and an independent float64 reference, shared by the numerics tests."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from pgrain.models import registry
from pgrain.models.text import UNKNOWN

ARCHITECTURES = {
    "logistic_regression": ((5,), {}),
    "mlp": ((5,), {"hidden": [4], "activation": "tanh"}),
    "cnn": ((6, 5, 2), {"channels": [3, 3], "hidden": [4], "activation": "tanh"}),
    "wide_resnet_10": ((4, 5, 1), {"stem": 2, "widths": [3], "activation": "tanh"}),
    "lstm": ((6,), {"embedding": 3, "units": 3}),
    "numerics_small:Residual": ((5,), {"arguments": {"width": 4}}),
}
# Compiling their derivatives takes long, so they are for one test of each kind alone. One group of
# their two or three blocks: all four take a minute to compile.
DEEP = {
    "wide_resnet_18": ((4, 4, 1), {"stem": 2, "widths": [2], "activation": "tanh"}),
    "wide_resnet_26": ((4, 4, 1), {"stem": 2, "widths": [2], "activation": "tanh"}),
}
WORDS = 9


class Residual(nn.Module):
    """A user's module: layers with a skip, dropout that must be off, layer normalisation."""

    n_classes: int
    width: int = 8

    @nn.compact
    def __call__(self, x, train: bool = True):
        y = nn.LayerNorm()(nn.Dense(self.width)(x))
        y = nn.Dropout(0.5, deterministic=not train)(nn.tanh(y))
        return nn.Dense(self.n_classes)(jnp.concatenate([x, y], axis=-1))


def small_model(architecture: str, n: int = 24, n_classes: int = 3, seed: int = 0):
    """A model of some dozens of parameters away from any optimum, and rows for it."""
    shape, options = (ARCHITECTURES | DEEP)[architecture]
    tokens = architecture == "lstm"
    model = registry.build(architecture, n_classes, shape, options,
                           n_tokens=WORDS if tokens else 0)
    rng = np.random.default_rng(seed)
    theta = (np.asarray(model.init(seed))
             + 0.3 * rng.standard_normal(model.n_parameters)).astype(np.float32)
    X = rng.standard_normal((n, *shape)).astype(np.float32)
    if tokens:      # texts of every length, the empty one too
        X = rng.integers(UNKNOWN, WORDS, (n, *shape)).astype(np.int32)
        X *= np.arange(shape[0]) < rng.integers(0, shape[0] + 1, n)[:, None]
    return model, theta, X, rng.integers(0, n_classes, n)


class Reference:
    """Multinomial logistic regression in float64, written without any of pgrain's code."""

    def __init__(self, n_classes: int, alpha: float):
        self.R, self.alpha = n_classes, alpha

    @staticmethod
    def design(X):
        X = np.asarray(X, np.float64).reshape(len(X), -1)
        return np.hstack([X, np.ones((len(X), 1))])

    def probabilities(self, W, X):
        z = self.design(X) @ W
        z = np.exp(z - z.max(axis=1, keepdims=True))
        return z / z.sum(axis=1, keepdims=True)

    def hessian(self, W, X):
        A, P = self.design(X), self.probabilities(W, X)
        S = np.einsum("nr,rs->nrs", P, np.eye(self.R)) - np.einsum("nr,ns->nrs", P, P)
        H = np.einsum("ni,nrs,nj->irjs", A, S, A).reshape(W.size, W.size)
        return H + self.alpha * np.eye(W.size)

    def gradient(self, W, X, y):
        error = self.probabilities(W, X)
        error[np.arange(len(y)), y] -= 1
        return self.design(X).T @ error + self.alpha * W

    def optimum(self, X, y, start=None):
        """The minimiser of the regularised loss, by Newton steps with halving."""
        W = np.zeros((self.design(X).shape[1], self.R)) if start is None else start.copy()
        for _ in range(100):
            g = self.gradient(W, X, y)
            size = np.linalg.norm(g)
            if size < 1e-10:
                return W
            step = np.linalg.solve(self.hessian(W, X), g.reshape(-1)).reshape(W.shape)
            scale = 1.0
            while np.linalg.norm(self.gradient(W - scale * step, X, y)) > size and scale > 1e-6:
                scale /= 2
            W = W - scale * step
        raise AssertionError("the reference did not converge")


def materialised(matvec, d: int) -> np.ndarray:
    """The operator as a dense float64 matrix."""
    eye = np.eye(d, dtype=np.float32)
    return np.stack([np.asarray(matvec(eye[i]), np.float64) for i in range(d)], axis=1)

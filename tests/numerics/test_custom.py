"""A user's own Flax module: what is accepted, what is refused, and that dropout is off."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from numerics_small import small_model

from pgrain.errors import InsufficientPrivilege, InvalidArgument, UnsupportedOperator
from pgrain.models import custom, registry, training

HERE = "test_custom"


class BatchStatistics(nn.Module):
    n_classes: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.n_classes)(nn.BatchNorm(use_running_average=True)(x))


class Noise(nn.Module):
    n_classes: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.n_classes)(nn.Dropout(0.5, deterministic=False)(x))


class Narrow(nn.Module):
    n_classes: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.n_classes - 1)(x)


class Nothing(nn.Module):
    n_classes: int

    def __call__(self, x):
        return jnp.zeros((len(x), self.n_classes))


class Centred(nn.Module):
    """Batch normalisation by hand: it has no state that would give it away."""

    n_classes: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.n_classes)(x - x.mean(axis=0))


class NoModule:
    pass


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """This file under its own name, as a user's package would be."""
    import sys
    monkeypatch.setitem(sys.modules, HERE, sys.modules[__name__])
    custom._imported.cache_clear()
    registry._build.cache_clear()


@pytest.mark.parametrize("name, error, message", [
    ("BatchStatistics", UnsupportedOperator, "no parameter: batch_stats"),
    ("Noise", UnsupportedOperator, "random numbers"),
    ("Narrow", InvalidArgument, "not 3 logits"),
    ("Nothing", InvalidArgument, "no parameters"),
    ("NoModule", InvalidArgument, "no Flax module"),
    ("Absent", InvalidArgument, "no Flax module"),
])
def test_what_influence_could_not_see_is_refused(name, error, message):
    with pytest.raises(error, match=message):
        registry.build(f"{HERE}:{name}", 3, (5,), {})


@pytest.mark.parametrize("path", ["no_such_package.module:Net", "os:path", "os:system",
                                  "numerics_small:Residual.__init__", ":Net", "os:__doc__"])
def test_paths_that_lead_nowhere(path):
    with pytest.raises(InvalidArgument):
        registry.build(path, 3, (5,), {})


def test_arguments_reach_the_class():
    one = registry.build("numerics_small:Residual", 3, (5,), {"arguments": {"width": 4}})
    two = registry.build("numerics_small:Residual", 3, (5,), {"arguments": {"width": 9}})
    assert one.n_parameters < two.n_parameters
    with pytest.raises(InvalidArgument, match="cannot be made"):
        registry.build("numerics_small:Residual", 3, (5,), {"arguments": {"breadth": 4}})
    with pytest.raises(InvalidArgument, match="must be an object"):
        registry.build("numerics_small:Residual", 3, (5,), {"arguments": [4]})


def test_dropout_is_off_in_training_and_inference():
    """The module's default is train=True; with dropout its logits would need random numbers."""
    model, theta, X, y = small_model("numerics_small:Residual")
    assert model.keywords == {"train": False}
    np.testing.assert_array_equal(model.logits(theta, X), model.logits(theta, X))
    trained = training.train(model, X, y, options={"epochs": 200})
    _, p = training.predict_proba(model, trained.theta, X)
    # The reported loss is that of the deterministic function, and it went down.
    loss = -np.log(p[np.arange(len(y)), y]).sum() + 0.5 * float(trained.theta @ trained.theta)
    np.testing.assert_allclose(trained.metrics["loss"], loss, rtol=1e-4)
    assert trained.metrics["accuracy"] > 0.5


def test_rows_of_a_batch_must_not_be_mixed():
    model = registry.build(f"{HERE}:Centred", 3, (5,), {})
    X = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
    with pytest.raises(UnsupportedOperator, match="mixes the rows"):
        training.train(model, X, np.arange(12) % 3, options={"epochs": 1})
    with pytest.raises(UnsupportedOperator, match="mixes the rows"):
        training.take(model, model.init(0), X, np.arange(12) % 3, {})


def test_the_worker_can_restrict_packages():
    custom.allow(["numerics"])
    try:
        with pytest.raises(InsufficientPrivilege, match="may not import"):
            custom.family("numerics_small:Residual")
        custom.allow(["numerics_small"])
        assert custom.family("numerics_small:Residual")
    finally:
        custom.allow(None)

"""Architectures, training and prediction."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from numerics_small import ARCHITECTURES, small_model

from pgrain.errors import Cancelled, InvalidArgument, UnsupportedOperator
from pgrain.models import newton, registry, training
from pgrain.models.convolution import PatchConvolution
from pgrain.models.softmax import log_softmax

architectures = pytest.mark.parametrize("architecture", ARCHITECTURES)


@pytest.mark.parametrize("architecture, parameters", [
    ("logistic_regression", 7_850), ("mlp", 203_530), ("cnn", 33_546),
    ("wide_resnet_10", 389_722), ("wide_resnet_18", 779_066), ("wide_resnet_26", 1_544_970)])
def test_sizes_for_pictures(architecture, parameters):
    model = registry.build(architecture, 10, (28, 28, 1), {})
    assert model.n_parameters == parameters == model.init(0).size
    out = jax.eval_shape(model.logits, model.init(1), np.zeros((2, 28, 28, 1), np.uint8))
    assert out.shape == (2, 10) and out.dtype == np.float32


@pytest.mark.parametrize("height, width, size, stride", [
    (28, 28, 3, 2), (7, 7, 3, 1), (8, 9, 5, 3), (10, 10, 1, 2), (2, 2, 5, 1)])
def test_convolution_as_patches_equals_convolution(height, width, size, stride):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, height, width, 3)).astype(np.float32)
    kernel = rng.standard_normal((size * size * 3, 4)).astype(np.float32)
    bias = rng.standard_normal(4).astype(np.float32)
    ours = jax.jit(PatchConvolution(4, size, stride).apply)(
        {"params": {"kernel": kernel, "bias": bias}}, x)
    theirs = jax.jit(nn.Conv(4, (size, size), (stride, stride), padding="SAME").apply)(
        {"params": {"kernel": kernel.reshape(size, size, 3, 4), "bias": bias}}, x)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-4)


def test_bytes_are_scaled_to_one():
    model = registry.build("mlp", 3, (4,), {"hidden": [5]})
    theta = model.init(0)
    X = np.array([[0, 255, 51, 102]], np.uint8)
    np.testing.assert_allclose(model.logits(theta, X),
                               model.logits(theta, (X / 255).astype(np.float32)), rtol=1e-6)


def test_one_object_for_equal_arguments():
    one = registry.build("mlp", 3, [4], {"hidden": [5], "epochs": 2})
    assert one is registry.build("mlp", 3, (4,), {"hidden": [5]})
    assert one is not registry.build("mlp", 3, (4,), {"hidden": [6]})


@architectures
def test_weights_to_names_and_back(architecture):
    model, theta, _, _ = small_model(architecture)
    tree = model.to_pytree(theta)
    np.testing.assert_array_equal(model.from_pytree(tree), theta)
    name = sorted(tree)[0]
    for bad in ({**tree, name: tree[name][..., :0]}, {**tree, "extra": tree[name]},
                {k: v for k, v in tree.items() if k != name}):
        with pytest.raises(InvalidArgument, match="weights do not fit"):
            model.from_pytree(bad)


def test_what_cannot_be_built():
    with pytest.raises(UnsupportedOperator, match='"lsd"') as raised:
        registry.build("lsd", 2, (4,), {})
    assert "mlp" in raised.value.hint
    for architecture, classes, shape, options in [
            ("mlp", 1, (4,), {}), ("mlp", 3, (4,), {"hidden": [0]}),
            ("mlp", 3, (4,), {"hidden": 256}), ("mlp", 3, (4,), {"activation": "sin"}),
            ("cnn", 3, (4,), {}), ("wide_resnet_10", 3, (4,), {}), ("lstm", 3, (4,), {}),
            ("wide_resnet_10", 3, (8, 8, 1), {"widths": []})]:
        with pytest.raises(InvalidArgument):
            registry.build(architecture, classes, shape, options)


def test_options_of_all_rooms_are_checked_in_one_place():
    options = {"shape": [28, 28, 1], "hidden": [8], "epochs": 3, "alpha": 2}
    assert registry.check_options("mlp", options) == {**options, "alpha": 2.0}
    for bad in ({"epoch": 3}, {"alpha": 0}, {"alpha": -1}, {"alpha": float("nan")},
                {"epochs": 2.5}, {"epochs": "3"}, {"optimizer": "sgdd"}, {"learning_rate": True}):
        with pytest.raises(InvalidArgument):
            registry.check_options("mlp", bad)
    with pytest.raises(InvalidArgument, match='no option "hidden"'):
        registry.check_options("logistic_regression", {"hidden": [8]})


def rows(n=300, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 5)).astype(np.float32)
    return X, (X @ rng.standard_normal((5, 3)) + rng.gumbel(size=(n, 3))).argmax(axis=1)


@pytest.mark.parametrize("architecture", ["logistic_regression", "mlp"])
def test_training_is_deterministic_and_seeded(architecture):
    model, _, _, _ = small_model(architecture)
    X, y = rows()
    options = {"epochs": 2, "batch_size": 64}
    one, two = (training.train(model, X, y, options=options, seed=1) for _ in range(2))
    assert one.theta.tobytes() == two.theta.tobytes() and one.theta.dtype == np.float32
    other = training.train(model, X, y, options=options, seed=2)
    assert (other.theta.tobytes() == one.theta.tobytes()) == (architecture == "logistic_regression")
    by_option = training.train(model, X, y, options={**options, "seed": 2}, seed=1)
    assert by_option.theta.tobytes() == other.theta.tobytes()
    for name in ("loss", "accuracy", "gradient_norm", "rows", "epochs", "seconds"):
        assert np.isfinite(one.metrics[name])


def test_metrics_are_those_of_the_loss_that_influence_sees():
    model, _, _, _ = small_model("mlp")
    X, y = rows()
    trained = training.train(model, X, y, options={"epochs": 3, "alpha": 2.0})
    logits, p = training.predict_proba(model, trained.theta, X)
    theta = trained.theta.astype(np.float64)
    loss = -log_softmax(logits)[np.arange(len(y)), y].sum() + 1.0 * theta @ theta
    assert trained.alpha == 2.0
    np.testing.assert_allclose(trained.metrics["loss"], loss, rtol=1e-5)
    assert trained.metrics["accuracy"] == (p.argmax(axis=1) == y).mean()


@pytest.mark.parametrize("architecture", ["logistic_regression", "mlp"])
def test_weight_two_is_a_row_twice(architecture):
    """At the convex optimum exactly; for a net the reported loss."""
    model, _, _, _ = small_model(architecture)
    X, y = rows(100)
    weights = np.ones(100)
    weights[:10] = 2
    double = np.concatenate([np.arange(100), np.arange(10)])
    if architecture == "logistic_regression":
        one = training.train(model, X, y, weights=weights, options={"tol": 1e-9})
        two = training.train(model, X[double], y[double], options={"tol": 1e-9})
        np.testing.assert_allclose(one.theta, two.theta, atol=1e-5)
    else:
        theta = np.asarray(model.init(0))
        one = training.evaluate(model, theta, X, y, 1.0, weights=weights)
        two = training.evaluate(model, theta, X[double], y[double], 1.0)
        np.testing.assert_allclose([one["loss"], one["gradient_norm"]],
                                   [two["loss"], two["gradient_norm"]], rtol=1e-4)


def test_warm_start_goes_on_where_it_was():
    X, y = rows()
    convex, _, _, _ = small_model("logistic_regression")
    cold = training.train(convex, X, y)
    warm = training.train(convex, X, y, theta0=cold.theta)
    assert warm.metrics["epochs"] < cold.metrics["epochs"]
    np.testing.assert_allclose(warm.theta, cold.theta, atol=1e-4)
    net, _, _, _ = small_model("mlp")
    first = training.train(net, X, y, options={"epochs": 20})
    again = training.train(net, X, y, options={"epochs": 1, "learning_rate": 1e-6},
                           theta0=first.theta)
    assert abs(again.metrics["loss"] - first.metrics["loss"]) < 1e-3 * first.metrics["loss"]


@pytest.mark.parametrize("architecture", ["logistic_regression", "mlp"])
def test_training_can_be_cancelled_and_reports_progress(architecture):
    model, _, _, _ = small_model(architecture)
    X, y = rows()
    seen = []

    def watch(done, total, message):
        assert 0 <= done <= total and message
        seen.append(done)

    training.train(model, X, y, options={"epochs": 30, "batch_size": 10}, progress=watch)
    assert len(seen) > 3 and seen == sorted(seen)

    def cancel(done, total, message):
        raise Cancelled("cancelled")

    with pytest.raises(Cancelled):
        training.train(model, X, y, options={"epochs": 30, "batch_size": 10}, progress=cancel)


def test_rows_that_cannot_be_learned():
    model, _, _, _ = small_model("mlp")
    X, y = rows(20)
    for bad in ((X[:0], y[:0]), (X, y[:-1]), (X, y + 1), (X, y - 1)):
        with pytest.raises(InvalidArgument):
            training.train(model, *bad)
    unbounded = registry.build("mlp", 3, (5,), {"hidden": [4]})
    with pytest.raises(InvalidArgument, match="not finite"), np.errstate(all="ignore"):
        training.train(unbounded, X * np.float32(1e35), y, options={"learning_rate": 100.0,
                                                                    "optimizer": "sgd"})
    assert training.train(model, X[:1], y[:1], options={"epochs": 1}).metrics["rows"] == 1


@pytest.mark.parametrize("dense", [9000, 0])
@pytest.mark.parametrize("n", [50, 6000])
def test_newton_reaches_the_optimum_with_either_preconditioner(monkeypatch, dense, n):
    monkeypatch.setattr(newton, "_DENSE_PARAMETERS", dense)
    rng = np.random.default_rng(1)
    X = rng.standard_normal((n, 8)).astype(np.float32) * np.geomspace(1, 0.01, 8)
    y = (X[:, 0] > 0).astype(int)                            # separable: only alpha bounds theta
    optimum = newton.minimise(X.astype(np.float32), y, 3, 0.1, tol=1e-9)
    assert optimum.status == "converged", optimum
    assert optimum.gradient_norm < 1e-4


@pytest.mark.parametrize(("price", "expected"), [
    (0, {"factor"}), (60, {"averages", "factor"}), (float("inf"), {"averages"})])
def test_newton_factorises_once_its_solves_have_cost_as_much(monkeypatch, price, expected):
    made = []
    monkeypatch.setattr(newton, "_price", lambda rows, d: price)
    for name, of, attribute in (("factor", newton, "_sampled_cholesky"),
                                ("averages", newton._Averages, "inverse")):
        make = getattr(of, attribute)
        monkeypatch.setattr(of, attribute, lambda *given, name=name, make=make:
                            made.append(name) or make(*given))
    rng = np.random.default_rng(1)
    X = rng.standard_normal((400, 12)).astype(np.float32) * np.geomspace(1, 0.01, 12)
    y = (X[:, 0] > 0).astype(int) + (X[:, 1] > 1)
    optimum = newton.minimise(X.astype(np.float32), y, 3, 1e-3, tol=1e-8)
    assert optimum.status == "converged" and set(made) == expected, (optimum, made)
    assert made == sorted(made)                              # and never goes back


def test_newton_begins_with_the_inverse_of_its_hessian():
    rng = np.random.default_rng(2)
    X, y = rng.standard_normal((60, 5)).astype(np.float32), rng.integers(0, 3, 60)
    rows = newton._Rows(X, y, rng.random(60) + 0.5)
    theta, v = np.zeros((6, 3)), rng.standard_normal((6, 3))
    product = newton._product(rows, newton._probabilities(rows, theta), v, 0.7)
    np.testing.assert_allclose(newton._Averages(rows, 0.7).inverse(theta)(product), v, rtol=1e-4,
                               atol=1e-5)


def test_probabilities_are_a_softmax_whatever_the_batch():
    model, theta, X, _ = small_model("mlp", n=50)
    logits, p = training.predict_proba(model, theta, X, batch=16)
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(logits, model.logits(theta, X), atol=1e-5)
    assert p.dtype == logits.dtype == np.float32
    assert training.predict_proba(model, theta, X[:0])[1].shape == (0, 3)


def test_training_stops_early_with_the_best_weights():
    X, y = rows()
    net, _, _, _ = small_model("mlp")
    options = {"epochs": 400, "batch_size": 50, "learning_rate": 0.05, "schedule": "constant"}
    stopped = training.train(net, X, y, options={**options, "patience": 5})
    assert stopped.metrics["epochs"] < 400 and "stopped early" in stopped.metrics["status"]
    patient = training.train(net, X, y, options={**options, "epochs": 5, "patience": 400})
    assert patient.metrics["epochs"] == 5 and patient.metrics["status"] == "finished"


def test_schedules_differ():
    X, y = rows()
    net, _, _, _ = small_model("mlp")
    found = {schedule: training.train(net, X, y, options={"epochs": 3, "schedule": schedule}).theta
             for schedule in ("cosine", "linear", "constant")}
    default = training.train(net, X, y, options={"epochs": 3}).theta
    np.testing.assert_array_equal(found["cosine"], default)
    assert not np.allclose(found["linear"], default, atol=1e-6)
    assert not np.allclose(found["constant"], default, atol=1e-6)

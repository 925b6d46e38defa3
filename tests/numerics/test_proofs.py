"""What the numbers mean (section 6 of the design), one claim a test, and proof that each test can
fail: the same claims against code that is wrong on purpose.

The truth comes from `Reference`, a float64 solver that shares no code with the product.
"""

from __future__ import annotations
import __future__

import inspect
import textwrap

import jax
import numpy as np
import pytest
from numerics_small import Reference, small_model
from scipy.stats import spearmanr

from pgrain.influence import gradient, hvp, lanczos, projections, scores
from pgrain.influence.filters import filter_weights
from pgrain.models import registry, softmax, training

N, D, R, ALPHA = 60, 3, 3, 1.0
EDITED_ALPHA = 30.0
"""Large, so that alpha tied to the number of rows shows."""


class Convex:
    """Logistic regression with all its eigenpairs, by the product; what retraining does, without
    it. q = count(*) WHERE predict(x) = class 1, over some rows."""

    def __init__(self):
        rng = np.random.default_rng(11)
        self.X = rng.standard_normal((N, D)).astype(np.float32)
        noisy = self.X @ rng.standard_normal((D, R)) + rng.gumbel(size=(N, R))
        self.y = noisy.argmax(axis=1)
        self.queried = rng.standard_normal((20, D)).astype(np.float32)
        self.model = registry.build("logistic_regression", R, (D,), {})
        self.theta = training.train(self.model, self.X, self.y,
                                    options={"alpha": ALPHA, "tol": 1e-9}).theta
        H = hvp.hessian_operator(self.model, self.theta, self.X, self.y, ALPHA, n_total=N)
        self.spectrum = lanczos.lanczos(H, self.model.n_parameters, self.model.n_parameters)
        self.w = filter_weights(self.spectrum.eigenvalues)
        logits, Jx = projections.project(self.model, self.theta, self.queried,
                                         self.spectrum.vectors)
        dq = np.zeros((20, R))
        dq[:, 1] = 1
        self.c = projections.objective_projection(softmax.softmax(logits), Jx, dq)
        self.A, self.J = self.projected(self.X, self.y)
        self.reference = Reference(R, ALPHA)
        self.W = self.reference.optimum(self.X, self.y)

    def projected(self, X, y):
        logits, J = projections.project(self.model, self.theta, X, self.spectrum.vectors)
        return projections.training_projection(J, softmax.residual(None, y, logits)), J

    def change(self, X, y) -> float:
        """What retraining on these rows does to q."""
        after = self.reference.optimum(X, y, self.W)
        return float(self.reference.probabilities(after, self.queried)[:, 1].sum()
                     - self.reference.probabilities(self.W, self.queried)[:, 1].sum())


def agrees(predicted, true) -> None:
    predicted, true = np.ravel(predicted), np.ravel(true)
    slope = float(predicted @ true / (predicted @ predicted))
    correlation = spearmanr(predicted, true).statistic
    assert correlation >= 0.98 and 0.85 <= slope <= 1.15, (correlation, slope)


def sign_of_removal():
    """Removing z changes q by + c^T W a_z (the paper's equation 3 is for adding)."""
    it = Convex()
    keep = ~np.eye(N, dtype=bool)
    agrees(scores.deletion_changes(it.A, it.w, it.c),
           [it.change(it.X[rows], it.y[rows]) for rows in keep])


def sign_of_relabelling():
    """Relabelling y -> y' changes q by + c^T W J_z^T (e_y' - e_y)."""
    it = Convex()
    predicted, true = scores.relabel_changes(it.J, it.y, it.w, it.c), []
    new = (it.y + 1) % R
    for z in range(N):
        y = it.y.copy()
        y[z] = new[z]
        true.append(it.change(it.X, y))
    agrees(predicted[np.arange(N), new], true)
    assert (predicted[np.arange(N), it.y] == 0).all()


def sign_of_replacement():
    """Replacing z by z' changes q by + c^T W (a_z - a_z') (the paper has the other sign)."""
    it = Convex()
    repaired = it.X.copy()
    repaired[:, 0] = np.median(it.X[:, 0])
    predicted = scores.replacement_changes(it.A, it.projected(repaired, it.y)[0], it.w, it.c)
    true = []
    for z in range(N):
        X = it.X.copy()
        X[z] = repaired[z]
        true.append(it.change(X, it.y))
    agrees(predicted, true)


def mean_against_sum():
    """L is a sum over rows: theta is the optimum of the sum, H the Hessian of the sum."""
    it = Convex()
    kernel = it.model.to_pytree(it.theta)
    np.testing.assert_allclose(np.vstack([kernel["dense.kernel"], kernel["dense.bias"]]), it.W,
                               atol=1e-5)
    trace = np.trace(it.reference.hessian(it.W, it.X))
    assert it.spectrum.eigenvalues.sum() == pytest.approx(trace, rel=1e-4)
    keep = np.arange(N) != 0
    assert (scores.deletion_changes(it.A, it.w, it.c)[0]
            == pytest.approx(it.change(it.X[keep], it.y[keep]), rel=0.1))


def alpha_with_edited_rows():
    """alpha is a number of the version, not of the rows: with a quarter of the rows deleted, both
    ways of training minimise what is left plus the same alpha/2 |theta|^2."""
    rng = np.random.default_rng(5)
    X, y = rng.standard_normal((N, D)).astype(np.float32), rng.integers(0, R, N)
    X[:, 0] += 2 * y
    kept = np.arange(N) % 4 > 0
    W = Reference(R, EDITED_ALPHA).optimum(X[kept], y[kept])
    convex = registry.build("logistic_regression", R, (D,), {})
    found = training.train(convex, X[kept], y[kept], options={"alpha": EDITED_ALPHA, "tol": 1e-9})
    tree = convex.to_pytree(found.theta)
    np.testing.assert_allclose(np.vstack([tree["dense.kernel"], tree["dense.bias"]]), W, atol=1e-5)
    # A net without hidden layers is the same function, but trained by minibatch steps on L/N.
    net = registry.build("mlp", R, (D,), {"hidden": []})
    found = training.train(net, X[kept], y[kept], options={
        "alpha": EDITED_ALPHA, "epochs": 150, "batch_size": N, "learning_rate": 0.3,
        "optimizer": "sgd", "schedule": "constant"})
    tree = net.to_pytree(found.theta)
    np.testing.assert_allclose(np.vstack([tree["output.kernel"], tree["output.bias"]]), W,
                               atol=1e-4)
    assert found.metrics["gradient_norm"] < 0.01


def scale_of_a_sampled_hessian():
    """H = (N/n) sum_S + alpha I: the rows' part stands for all N rows, alpha for itself."""
    it = Convex()
    sample = np.arange(0, N, 3)
    H = hvp.hessian_operator(it.model, it.theta, it.X[sample], it.y[sample], 5.0, n_total=N)
    own = Reference(R, 0.0).hessian(it.W, it.X[sample])
    # The reference orders parameters by (feature, class), as flattening [kernel; bias] does.
    v = np.random.default_rng(0).standard_normal((D + 1, R))
    flat = np.asarray(it.model.from_pytree({"dense.kernel": v[:-1], "dense.bias": v[-1]}))
    product = it.model.to_pytree(H(flat))
    expected = (3 * own @ v.reshape(-1)).reshape(v.shape) + 5 * v
    np.testing.assert_allclose(np.vstack([product["dense.kernel"], product["dense.bias"]]),
                               expected, rtol=1e-4, atol=1e-4)


def dropout_off():
    """Training, curvature and projections see the network as predictions do: without dropout."""
    model, theta, X, _ = small_model("numerics_small:Residual")
    tree = {name: value.astype(np.float64) for name, value in model.to_pytree(theta).items()}
    y = X @ tree["Dense_0.kernel"] + tree["Dense_0.bias"]
    y = (y - y.mean(axis=1, keepdims=True)) / np.sqrt(y.var(axis=1, keepdims=True) + 1e-6)
    y = np.tanh(y * tree["LayerNorm_0.scale"] + tree["LayerNorm_0.bias"])
    expected = np.hstack([X, y]) @ tree["Dense_1.kernel"] + tree["Dense_1.bias"]
    np.testing.assert_allclose(model.logits(theta, X), expected, rtol=1e-4, atol=1e-4)
    logits, _ = projections.project(model, theta, X, np.eye(len(theta), 2, dtype=np.float32))
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


GAPS = np.array([1.0, 8, 14, 20, 40, 80])
"""By how many nats the first class leads the second; the third is one nat below that."""


def saturation_and_float16():
    """A row that is almost sure keeps its gradient, as a training row and as a queried one, down
    to e^-80; J rounded to float16 leaves the ranking as it is, p would not survive it."""
    z = np.stack([GAPS, np.zeros(6), -np.ones(6)], axis=1).astype(np.float32)
    tail = np.exp(-GAPS) + np.exp(-GAPS - 1)                   # of the other two, over p_1
    first = 1 / (1 + tail)
    loss = softmax.residual(None, np.zeros(6, int), z)
    np.testing.assert_allclose(loss[:, 0], -tail * first, rtol=1e-5)
    np.testing.assert_allclose(loss[:, 1], np.exp(-GAPS) * first, rtol=1e-5)
    # q = -log P(the row is not of the first class), whose slope there is 1 / (1 - p_1).
    dq = np.zeros((6, 3))
    dq[:, 0] = 1 / (tail * first)
    cotangent = gradient.logit_cotangent(softmax.softmax(z), dq)
    np.testing.assert_allclose(cotangent[:, 0], first, rtol=1e-6)
    it = Convex()
    exact = scores.deletion_changes(it.A, it.w, it.c)
    logits, J = projections.project(it.model, it.theta, it.X, it.spectrum.vectors)
    halved = projections.training_projection(J.astype(np.float16).astype(np.float32),
                                             softmax.residual(None, it.y, logits))
    assert spearmanr(scores.deletion_changes(halved, it.w, it.c), exact).statistic > 0.999
    assert (np.float16(first)[2:] == 1).all()


PROOFS = {proof.__name__: proof for proof in (
    sign_of_removal, sign_of_relabelling, sign_of_replacement, mean_against_sum,
    alpha_with_edited_rows, scale_of_a_sampled_hessian, dropout_off, saturation_and_float16)}


@pytest.mark.parametrize("name", PROOFS)
def test_proof(name):
    PROOFS[name]()


def edited(owner, name: str, old: str, new: str):
    """owner.name with a piece of its source replaced."""
    source = textwrap.dedent(inspect.getsource(getattr(owner, name)))
    assert source.count(old) == 1, f"{name} has changed: say what the mutation is now"
    module = inspect.getmodule(getattr(owner, name))
    code = compile(source.replace(old, new), f"<mutated {name}>", "exec",
                   flags=__future__.annotations.compiler_flag, dont_inherit=True)
    found: dict = {}
    exec(code, vars(module), found)
    return found[name]


def negated(owner, name: str):
    """owner.name with the other sign."""
    function = getattr(owner, name)
    return lambda *arguments: -function(*arguments)


MUTATIONS = {
    "sign_of_removal": [
        (scores, "deletion_changes", None),
        (softmax, "residual", ("return out.astype", "return -out.astype")),
        (projections, "objective_projection", ("c += u @", "c -= u @"))],
    "sign_of_relabelling": [
        (scores, "relabel_changes", None)],
    "sign_of_replacement": [
        (scores, "replacement_changes", None)],
    "mean_against_sum": [
        (hvp, "hessian_operator", ("scale = n_total / n", "scale = 1 / n")),
        (training, "_fit_convex", ('settings["alpha"]', 'settings["alpha"] * len(y)'))],
    "alpha_with_edited_rows": [
        (training, "_fit_convex", ('settings["alpha"]', f'settings["alpha"] * len(y) / {N}')),
        (training, "_fit_minibatch", ('settings["alpha"] / n', f'settings["alpha"] / {N}')),
        (training, "_fit_minibatch", ('settings["alpha"] / n', 'settings["alpha"] / size ** 2'))],
    "scale_of_a_sampled_hessian": [
        (hvp, "hessian_operator", ("scale = n_total / n", "scale = 1")),
        (hvp, "hessian_operator", ("+ np.float32(alpha) * v", "+ scale * np.float32(alpha) * v"))],
    "dropout_off": [
        (registry.Model, "logits", ("X, **self.keywords)", 'X, train=True, '
                                    'rngs={"dropout": jax.random.PRNGKey(0)})'))],
    "saturation_and_float16": [
        (softmax, "residual", ("-out.sum(axis=1)", "p[rows, y] - 1")),
        (softmax, "residual", ("astype(np.float32)", "astype(np.float16)")),
        (softmax, "softmax", ("np.float64", "np.float16")),
        (gradient, "logit_cotangent", ("g = g - np.take_along_axis", "0 * np.take_along_axis"))],
}


def test_every_proof_has_a_mutation():
    assert MUTATIONS.keys() == PROOFS.keys()


@pytest.mark.parametrize("name, owner, target, change", [
    pytest.param(name, *mutation, id=f"{name}-{mutation[1]}-{i}")
    for name, of in MUTATIONS.items() for i, mutation in enumerate(of)])
def test_wrong_code_fails_its_proof(name, owner, target, change, monkeypatch):
    wrong = negated(owner, target) if change is None else edited(owner, target, *change)
    jitted = owner is registry.Model              # what was compiled would hide the change
    if jitted:
        jax.clear_caches()
    monkeypatch.setattr(owner, target, wrong)
    try:
        with pytest.raises(AssertionError):
            PROOFS[name]()
    finally:
        if jitted:
            jax.clear_caches()

"""Figure 15 of the paper in small: noise on the pictures of one class, whose count is then too low.
Deleting the noisy rows cannot help, and their ranking says so; the median filter can."""

from __future__ import annotations

import numpy as np
import pytest

from pgrain.demo.datasets import DatasetMissing, fashion_mnist
from pgrain.demo.feature_errors import salt_and_pepper
from pgrain.demo.metrics import auc_r
from pgrain.influence.filters import filter_weights
from pgrain.influence.hvp import hessian_operator
from pgrain.influence.lanczos import lanczos
from pgrain.influence.projections import objective_projection, project, training_projection
from pgrain.influence.selection import choose_k
from pgrain.influence.top_k import top_k
from pgrain.intervention import library
from pgrain.models import registry, training
from pgrain.models.softmax import residual, softmax
from pgrain.worker.candidates import Candidates
from pgrain.worker.resident import Repair, Training

CLASSES = (1, 3, 5)     # trouser, dress, sandal
ROWS, SHAPE = 900, (28, 28, 1)


def pictures(part, n):
    try:
        images = fashion_mnist(part)
    except DatasetMissing as error:
        pytest.skip(str(error))
    chosen = np.flatnonzero(np.isin(images.labels, CLASSES))[:n]
    return images.pixels[chosen], np.searchsorted(CLASSES, images.labels[chosen])


@pytest.fixture(scope="module", params=[0])
def noisy(request):
    pixels, y = pictures("train", ROWS)
    rng = np.random.default_rng(request.param)
    trousers = np.flatnonzero(y == 0)
    wrong = np.zeros(ROWS, bool)
    wrong[rng.choice(trousers, round(0.9 * len(trousers)), replace=False)] = True
    pixels = pixels.copy()
    pixels[wrong] = salt_and_pepper(pixels[wrong], request.param)
    X = pixels[..., None]
    model = registry.build("logistic_regression", 3, SHAPE, {})
    theta = training.train(model, X, y, options={"alpha": 10.0}).theta

    def projected(X, V):
        logits, J = project(model, theta, X, V)
        return logits, J, training_projection(J, residual(None, y[:len(X)], logits))

    H = hessian_operator(model, theta, X, y, 10.0, n_total=ROWS)
    spectrum = lanczos(H, model.n_parameters, 20)
    k = choose_k(spectrum.eigenvalues, 3)
    V, w = spectrum.vectors[:, :k], filter_weights(spectrum.eigenvalues[:k])
    test, _ = pictures("t10k", 600)
    logits, J, _ = projected(test[..., None], V)
    p = softmax(logits)
    slope = np.zeros_like(p)
    slope[:, 0] = -1                                     # the count of trousers is too low
    c = objective_projection(p, J, slope)
    _, J, A = projected(X, V)
    values = [picture.tobytes() for picture in X]
    new = library.transform("median", values, {"size": 3}, None, SHAPE)
    X_new = np.frombuffer(b"".join(new), np.uint8).reshape(X.shape)
    logits_new, _, A_new = projected(X_new, V)
    repair = Repair(1, "denoise", np.arange(ROWS), A_new, softmax(logits_new)[np.arange(ROWS), y])
    data = Training(np.arange(ROWS), y, J, A, residual(None, y, projected(X, V)[0]))

    def ranked(intervention, sign=1, plausible=False):
        candidates = Candidates.of(intervention, ["trouser", "dress", "sandal"], [repair],
                                   plausible=plausible)
        return top_k(-sign * candidates.least(data, w, c), ROWS)

    def count(X, y):
        theta = training.train(model, X, y, options={"alpha": 10.0}).theta
        return float(softmax(project(model, theta, test[..., None], V)[0])[:, 0].sum())

    def chosen(among, plausible=True):
        """The share of the repair among the first N of `any`."""
        candidates = Candidates.of("any", ["trouser", "dress", "sandal"], [repair], among,
                                   plausible)
        top = top_k(-candidates.least(data, w, c), wrong.sum())
        titles = np.array(candidates.titles())
        return (titles[candidates.columns(data, top, w, c).argmin(axis=1)] == "denoise").mean()

    return dict(wrong=wrong, chosen=chosen, ranked=ranked, count=count, X=X, X_new=X_new, y=y)


def test_the_median_filter_finds_the_noise_and_delete_does_not(noisy):
    wrong = noisy["wrong"]
    found = {name: auc_r(wrong[noisy["ranked"](name)], wrong.sum())
             for name in ("denoise", "delete")}
    turned = auc_r(wrong[noisy["ranked"]("denoise", -1)], wrong.sum())
    print(found, turned, wrong.mean())
    assert found["denoise"] >= 0.65
    assert found["delete"] < wrong.mean()               # worse than a blind guess
    assert turned < found["denoise"] - 0.3              # the sign turned round


def test_any_picks_the_filter(noisy):
    """For most of the first N (0.85 was seen), beside deleting and relabelling; by gains alone
    (0.21) each row called trouser raises their count. What it ranks first is noisy."""
    assert noisy["chosen"](None) >= 0.8
    assert noisy["chosen"](["delete", "denoise"]) >= 0.9
    assert noisy["chosen"](None, plausible=False) < 0.5
    wrong = noisy["wrong"]
    found = {plausible: auc_r(wrong[noisy["ranked"]("any", plausible=plausible)], wrong.sum())
             for plausible in (True, False)}
    print(found)
    assert found[True] >= 0.8 > 0.2 > found[False]


def test_retraining_says_the_same(noisy):
    """Of the top N rows, denoised or deleted, only the first raises the count."""
    X, y, wrong = noisy["X"], noisy["y"], noisy["wrong"]
    before = noisy["count"](X, y)
    top = noisy["ranked"]("denoise")[:wrong.sum()]
    repaired = X.copy()
    repaired[top] = noisy["X_new"][top]
    kept = np.ones(len(y), bool)
    kept[np.flatnonzero(wrong)] = False
    denoised, deleted = noisy["count"](repaired, y), noisy["count"](X[kept], y[kept])
    print(before, denoised, deleted)
    assert denoised > before > deleted

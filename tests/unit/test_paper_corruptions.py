"""The paper's corruptions: rates, whom they hit, what they leave alone, seeds (tables 2 and 3)."""

from __future__ import annotations

import numpy as np
import pytest

from pgrain.demo import feature_errors, label_errors

LABELS = np.random.default_rng(3).integers(0, 10, 5000).astype(np.uint8)
PIXELS = np.random.default_rng(4).integers(1, 255, (300, 28, 28), np.uint8)
CLASSES = LABELS[:300]


@pytest.mark.parametrize("rate", [0.1, 0.2, 0.3, 0.4, 1.0])
def test_a_class_rate_is_a_share_of_that_class(rate):
    bad = label_errors.flip_class(LABELS, 1, 7, rate, seed=0)
    assert bad.wrong.sum() == round(rate * (LABELS == 1).sum())
    assert set(LABELS[bad.wrong]) == {1} and set(bad.labels[bad.wrong]) == {7}
    np.testing.assert_array_equal(bad.labels[~bad.wrong], LABELS[~bad.wrong])


def test_two_classes_each_at_the_same_rate():
    bad = label_errors.flip_classes(LABELS, [(1, 7), (4, 9)], 0.3, seed=0)
    for source, target in [(1, 7), (4, 9)]:
        of = bad.wrong & (LABELS == source)
        assert of.sum() == round(0.3 * (LABELS == source).sum())
        assert set(bad.labels[of]) == {target}
    assert set(LABELS[bad.wrong]) == {1, 4}


def test_a_chain_of_flips_starts_from_the_true_labels():
    bad = label_errors.flip_classes(LABELS, [(1, 7), (7, 3)], 0.5, seed=0)
    assert set(bad.labels[bad.wrong & (LABELS == 1)]) == {7}
    assert (bad.wrong & (LABELS == 7)).sum() == round(0.5 * (LABELS == 7).sum())


def test_a_predicate_hits_only_rows_that_satisfy_it_and_have_the_label():
    chosen = np.arange(len(LABELS)) % 3 == 0
    bad = label_errors.flip_where(LABELS, chosen, 2, 5, 0.7, seed=0)
    assert bad.wrong.sum() == round(0.7 * (chosen & (LABELS == 2)).sum())
    assert chosen[bad.wrong].all() and set(LABELS[bad.wrong]) == {2}


def test_seeds():
    for make in (lambda seed: label_errors.flip_class(LABELS, 1, 7, 0.4, seed).wrong,
                 lambda seed: feature_errors.damage(
                     PIXELS, CLASSES, "salt_and_pepper", 0.4, seed).pixels,
                 lambda seed: label_errors.permute(LABELS, seed)):
        np.testing.assert_array_equal(make(1), make(1))
        assert (make(1) != make(2)).any()


@pytest.mark.parametrize("rate", [-0.1, 1.1])
def test_rates_are_shares(rate):
    with pytest.raises(ValueError, match="between 0 and 1"):
        label_errors.flip_class(LABELS, 1, 7, rate, seed=0)


def test_permuted_labels_keep_their_counts_and_lose_their_rows():
    permuted = label_errors.permute(LABELS, 0)
    assert np.bincount(permuted).tolist() == np.bincount(LABELS).tolist()
    assert (permuted == LABELS).mean() < 0.15


def test_salt_and_pepper_sets_thirty_percent_of_the_pixels_half_to_each():
    noisy = feature_errors.salt_and_pepper(PIXELS, seed=0)       # no pixel was 0 or 255 before
    changed = noisy != PIXELS
    assert (changed.sum((1, 2)) == round(0.3 * 784)).all()
    assert set(noisy[changed]) == {0, 255}
    assert abs((noisy[changed] == 255).mean() - 0.5) < 0.01


def test_salt_and_pepper_sets_all_channels_of_a_pixel_together():
    colour = np.repeat(PIXELS[:5, :, :, None], 3, axis=3) // 2 + np.arange(3, dtype=np.uint8) + 1
    changed = feature_errors.salt_and_pepper(colour, seed=0) != colour
    assert (changed.all(axis=3) == changed.any(axis=3)).all()


def test_blur_is_a_gaussian_of_two_pixels():
    dot = np.zeros((1, 41, 41), np.uint8)
    dot[0, 20, 20] = 255
    # One dot of 255 rounds away: a block of 7 x 7 keeps its sum.
    dot[0, 17:24, 17:24] = 255
    blurred = feature_errors.gaussian_blur(dot)[0].astype(float)
    assert abs(blurred.sum() / (49 * 255) - 1) < 0.02
    offset = np.arange(41) - 20
    variance = (blurred.sum(1) * offset**2).sum() / blurred.sum()
    assert abs(variance - (4 + (49 - 1) / 12)) < 0.2      # sigma^2, and that of seven equal pixels


@pytest.mark.parametrize("error", feature_errors.ERRORS)
@pytest.mark.parametrize("only", [None, 3])
def test_random_and_systematic_damage(error, only):
    candidates = np.ones(300, bool) if only is None else CLASSES == only
    bad = feature_errors.damage(PIXELS, CLASSES, error, 0.4, seed=0, only=only)
    assert bad.wrong.sum() == round(0.4 * candidates.sum()) and candidates[bad.wrong].all()
    changed = (bad.pixels != PIXELS).any((1, 2))
    np.testing.assert_array_equal(changed, bad.wrong)


def test_median_denoise_brings_a_smooth_picture_back():
    smooth = feature_errors.gaussian_blur(PIXELS[:20], sigma=4)
    noisy = feature_errors.salt_and_pepper(smooth, seed=0)

    def error(pixels):
        return np.abs(pixels.astype(float) - smooth).mean()

    assert error(feature_errors.median_denoise(noisy)) < 0.25 * error(noisy)
    np.testing.assert_array_equal(feature_errors.median_denoise(np.full((2, 9, 9, 3), 7, np.uint8)),
                                  np.full((2, 9, 9, 3), 7))

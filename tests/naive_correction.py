"""Bias correction as plainly as it can be written: one-hot features, ridge regression, loops over rows."""

import numpy as np


def one_hot(sketch, X):
    """Return the buckets of every row as features, whose inner products are the sketch's kernel."""
    codes = sketch.plan.codes(X)
    n_repetitions, n_rows = codes.shape
    features = np.zeros((n_rows, n_repetitions, sketch.n_buckets))
    for row in range(n_rows):
        for repetition in range(n_repetitions):
            features[row, repetition, codes[repetition, row]] = 1 / np.sqrt(n_repetitions)
    return features.reshape(n_rows, -1)


def kernel(sketch, A, B):
    """Return the share of repetitions in which two rows meet."""
    return (sketch.plan.codes(A)[:, :, None] == sketch.plan.codes(B)[:, None]).mean(axis=0)


def ridge_regression(sketch, X, y, weights, ridge, queries):
    """Return predictions of the ridge regression on the buckets, of the targets less their mean."""
    features, offset = one_hot(sketch, X), np.average(y, axis=0, weights=weights)
    gram = features.T @ (weights[:, None] * features) + ridge * np.eye(features.shape[1])
    coefficients = np.linalg.solve(gram, features.T @ (weights * (y - offset)))
    return offset + one_hot(sketch, queries) @ coefficients


def objective(sketch, X, y, weights, ridge):
    """Return what the ridge regression minimises, at the tables of a corrected sketch."""
    errors = y - sketch.query(X)[:, 0]
    return weights @ errors**2 + ridge * (sketch.tables[..., 0] ** 2).mean(axis=0).sum()


def backfit(codes, y, weights, n_buckets, ridges):
    """Return the offset and the tables: one bucket after the other fits what all others leave over."""
    n_repetitions, n_rows = codes.shape
    offset = sum(w * target for w, target in zip(weights, y, strict=True)) / sum(weights)
    tables = np.zeros((n_repetitions, n_buckets))
    for ridge in ridges:
        for repetition in range(n_repetitions):
            for bucket in range(n_buckets):
                rows = [i for i in range(n_rows) if codes[repetition, i] == bucket]
                weight = left = 0.0
                for i in rows:
                    own = tables[repetition, bucket] / n_repetitions
                    others = sum(tables[r, codes[r, i]] for r in range(n_repetitions)) / n_repetitions - own
                    weight += weights[i]
                    left += weights[i] * (y[i] - offset - others)
                if weight > 0:
                    tables[repetition, bucket] = n_repetitions * left / (weight + ridge * n_repetitions)
    return offset, tables

"""Exact Nadaraya-Watson regression, slow and obvious: what every fast routine is compared with.

Imports nothing from nwsketch. Rows are sequences of numbers, of equal length; a bandwidth is one number
per feature, and is ignored by the kernels that have none.
"""

import math


def cityblock(x, q):
    return math.fsum(abs(a - b) for a, b in zip(x, q, strict=True))


def euclidean(x, q):
    return math.hypot(*(a - b for a, b in zip(x, q, strict=True)))


def angle(x, q):
    norms = math.hypot(*x), math.hypot(*q)
    if norms == (0, 0):
        return 0.0
    if 0 in norms:
        return math.pi / 2
    cosine = math.fsum(a * b for a, b in zip(x, q, strict=True)) / norms[0] / norms[1]
    return math.acos(max(-1.0, min(1.0, cosine)))


def jaccard_similarity(x, q):
    x, q = ({column for column, value in enumerate(row) if value != 0} for row in (x, q))
    return len(x & q) / len(x | q) if x | q else 1.0


def scaled(row, bandwidth):
    return [value / width for value, width in zip(row, bandwidth, strict=True)]


def l2(t):
    if t == 0:
        return 1.0
    return math.erf(1 / (t * math.sqrt(2))) - math.sqrt(2 / math.pi) * t * -math.expm1(-1 / (2 * t**2))


def l1(t):
    if t == 0:
        return 1.0
    return 2 / math.pi * math.atan(1 / t) - t / math.pi * math.log1p(1 / t**2)


def log_kernel(name, x, q, bandwidth, power=1):
    """Return the logarithm of the kernel, -inf where that is zero."""
    if name == "laplacian":
        return -power * cityblock(scaled(x, bandwidth), scaled(q, bandwidth))
    if name == "rbf":
        return -power * euclidean(scaled(x, bandwidth), scaled(q, bandwidth)) ** 2 / 2
    if name == "l2":
        value = l2(euclidean(scaled(x, bandwidth), scaled(q, bandwidth)))
    elif name == "l1":
        value = l1(cityblock(scaled(x, bandwidth), scaled(q, bandwidth)))
    elif name == "angular":
        value = 1 - angle(x, q) / math.pi
    elif name == "jaccard":
        value = jaccard_similarity(x, q)
    else:
        raise ValueError(f"no kernel is called {name!r}")
    return power * math.log(value) if value > 0 else -math.inf


def kernel_value(name, x, q, bandwidth, power=1):
    return math.exp(log_kernel(name, x, q, bandwidth, power))


def kernel_sum(name, X, queries, bandwidth, weights, power=1):
    """Return sum_i w_i k(x_i, q) of every query."""
    return [
        math.fsum(w * kernel_value(name, x, q, bandwidth, power) for x, w in zip(X, weights, strict=True))
        for q in queries
    ]


def predict(name, X, y, queries, bandwidth, weights, power=1):
    """Return the prediction of every query for targets of one output; their mean where no row is near."""
    predictions = []
    for q in queries:
        logs = [
            log_kernel(name, x, q, bandwidth, power) if w > 0 else -math.inf
            for x, w in zip(X, weights, strict=True)
        ]
        largest = max(logs)
        if largest == -math.inf:
            parts = list(weights)
        else:
            parts = [w * math.exp(log - largest) for w, log in zip(weights, logs, strict=True)]
        total = math.fsum(part * target for part, target in zip(parts, y, strict=True))
        predictions.append(total / math.fsum(parts))
    return predictions


def loo_predict(name, X, y, bandwidth, weights, power=1):
    """Return the prediction of every row from all the others."""
    X, y, weights = list(X), list(y), list(weights)
    return [
        predict(
            name,
            X[:i] + X[i + 1 :],
            y[:i] + y[i + 1 :],
            [X[i]],
            bandwidth,
            weights[:i] + weights[i + 1 :],
            power,
        )[0]
        for i in range(len(X))
    ]

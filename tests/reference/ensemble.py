"""Bias and variance as the definitions read, in float64: every estimator as a mean over models or pairs of models."""

import itertools

import numpy as np


def squared(predictions, target, *, unbiased):
    """error, bias2, variance, optimisation, sampling of [sets][seeds] arrays [n, c], by point; sets may differ in seeds."""
    models = [[np.asarray(h, dtype=np.longdouble) for h in seeds] for seeds in predictions]
    target = np.asarray(target, dtype=np.longdouble)

    def apart(a, b):
        return ((a - b) ** 2).sum(-1)

    error = np.mean([np.mean([apart(h, target) for h in seeds], 0) for seeds in models], 0)
    if unbiased:  # half the mean squared distance of two models of one set, and of two sets
        within = [np.mean([apart(a, b) / 2 for a, b in itertools.combinations(seeds, 2)], 0) for seeds in models]
        between = [np.mean([apart(a, b) / 2 for a in s for b in t], 0) for s, t in itertools.combinations(models, 2)]
        optimisation, variance = np.mean(within, 0), np.mean(between, 0)
        return error, error - variance, variance, optimisation, variance - optimisation
    means = [np.mean(seeds, 0) for seeds in models]
    mean = np.mean(means, 0)
    optimisation = np.mean([np.mean([apart(h, m) for h in s], 0) for s, m in zip(models, means, strict=True)], 0)
    sampling = np.mean([apart(m, mean) for m in means], 0)
    return error, apart(mean, target), optimisation + sampling, optimisation, sampling


def cross_entropy(logits, target):
    """The same of logits [sets, seeds, n, c] and probabilities [n, c], from the divergences themselves."""
    logits = np.asarray(logits, dtype=np.longdouble)
    target = np.asarray(target, dtype=np.longdouble)

    def normal(log_p):
        p = np.exp(log_p)
        return p / p.sum(-1, keepdims=True)

    def divergence(p, q):
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(p > 0, p * (np.log(p) - np.log(q)), 0).sum(-1)

    p = normal(logits)
    of_set = normal(np.log(p).mean(1))
    center = normal(np.log(of_set).mean(0))
    entropy = -np.where(target > 0, target * np.log(np.where(target > 0, target, 1)), 0).sum(-1)
    error = (-(target * np.log(p)).sum(-1)).mean((0, 1))
    optimisation = divergence(of_set[:, None], p).mean((0, 1))
    sampling = divergence(center, of_set).mean(0)
    variance = divergence(center, p).mean((0, 1))
    return error, divergence(target, center) + entropy, variance, optimisation, sampling


def zero_one(labels, target, classes):
    """Kohavi and Wolpert's parts, plug-in, of labels [sets, seeds, n] and [n], and Domingos' bias and variance."""
    one_hot = np.eye(classes)[np.asarray(labels)]
    parts = [part / 2 for part in squared(one_hot, np.eye(classes)[np.asarray(target)], unbiased=False)]
    flat = np.asarray(labels).reshape(-1, len(target))
    main = np.array([np.bincount(votes, minlength=classes).argmax() for votes in flat.T])
    return *parts, (main != target).astype(float), (flat != main).mean(0)

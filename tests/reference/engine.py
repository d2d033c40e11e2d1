"""The sum of squared inner products, with the Gram matrix stored, in NumPy's widest float."""

from tests.checks import wide


def gram_square_sum(x, y):
    return ((wide(x) @ wide(y).T) ** 2).sum()

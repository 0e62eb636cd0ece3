"""The ``prune`` step: weights, 2:4 patterns, or whole channels and heads."""

"""Headrace: compress a PyTorch model, prove the result, and serve it on Ray Serve."""

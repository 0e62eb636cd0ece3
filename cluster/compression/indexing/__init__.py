"""Indices of a model: which inputs they come from, and programs that check them."""

"""The ``quantize`` step: a table of schemes, each refusing to quantize nothing."""

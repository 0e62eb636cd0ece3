"""Compression of real models, judged by its goals.

python -m benchmarks.compression

case → recipes of deployments/recipes, changed → builds.py: artifact → its report → figures → goals

cases.py   cases for CPUs        cuda_cases.py   cases for a GPU        table.py   Markdown
"""

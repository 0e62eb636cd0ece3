"""Compression job: recipe → artifact, or a refusal with its reasons.

job.run → Job: recipe, model and data, store, launcher (work.py)
        → steps.run: training/ pruning/ quantization/ activations.py
        → or search.run: many combinations of steps, within the accuracy budget
        → packaging.build: weights.safetensors → programs/ → evaluation/ in fresh processes
          → gate.check → sharding/ → report/ → published, or rejected
"""

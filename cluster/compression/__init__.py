"""The compression job: a recipe goes in, an artifact or a refusal with its reasons comes out.

job.run → load model and data → steps.run (training/ pruning/ quantization/ activations.py)
        → or search.run: many such combinations, within the accuracy budget
        → candidate.build: weights.safetensors → programs/ → evaluation/ in fresh processes
        → gate.check → report/ → published, or rejected
"""

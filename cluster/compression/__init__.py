"""The compression job: a recipe goes in, an artifact or a refusal with its reasons comes out.

job.run → load model and data → steps.run (train.py, quantize.py)
        → weights.safetensors → builder.build → programs
        → evaluate.run, in a fresh process → gate.check → published, or rejected
"""

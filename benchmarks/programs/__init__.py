"""The artifact's program beside OpenVINO's own loop and the float model, in one process.

python -m benchmarks.programs

    resnet18 artifact → the program that a replica loads ┐
                      → its IR, compiled as benchmark_app does ┤→ batch 1 and 8, run by run in turn
    torchvision resnet18, float32, eager                  ┘

Goal: the loaded program needs at most 1.05 times the time of OpenVINO's loop.
"""

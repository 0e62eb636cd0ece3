"""Training steps: losses, optimizers, schedules, the loop, distillation, data parallelism."""

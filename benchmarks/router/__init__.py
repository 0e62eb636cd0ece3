"""Cost of a route, and gain of a cascade and a hedge, judged by their goals.

python -m benchmarks.router

fan_out.py   ensemble of two ResNet-18, beside the same by hand in plain Ray Serve
rate.py      requests per second of a router whose model costs nothing
cascade.py   student and teacher as one model, beside each alone: accuracy and images per second
hedge.py     one of two replicas ten times slower (slowing.py): the slowest requests
cifar.py     artifacts of the cascade: ResNet-56, and ResNet-20 distilled from it
"""

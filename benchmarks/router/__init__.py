"""The router: what a route costs, what a cascade and a hedge gain, held against their goals.

__main__.py  case → artifacts.py (recipes → ids) → rounds → results.py → table.py

fan_out.py   an ensemble of two ResNet-18, beside the same by hand in plain Ray Serve
rate.py      requests per second of a router whose model costs nothing
cascade.py   student and teacher as one, beside the teacher alone: accuracy and images per second
hedge.py     one replica of two made ten times slower (slowing.py): the slowest requests

client.py    a closed loop that keeps every answer, for what wrk cannot tell
"""

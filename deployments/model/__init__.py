"""One replica of a model: its program, its endpoint, one request of it, its metrics."""

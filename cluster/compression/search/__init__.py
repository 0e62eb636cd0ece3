"""The search: combinations of steps, tried within an accuracy budget."""

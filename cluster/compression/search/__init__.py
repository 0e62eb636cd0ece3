"""Search of combinations of steps within an accuracy budget."""

"""What runs inside a serving replica besides HTTP: requests are joined into batches here."""

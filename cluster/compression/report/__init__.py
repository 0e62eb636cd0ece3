"""What a build found, as data, as a table, and as a page."""

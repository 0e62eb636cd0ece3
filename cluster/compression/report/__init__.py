"""Result of a build, as data, as a table, and as a page."""

"""Where concepts come from, a file for each source, and their registry."""

"""Everything that two stages share, and all the mathematics."""

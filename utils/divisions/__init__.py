"""Ways of dividing a channel's inputs among its concepts, a file each, and their registry."""

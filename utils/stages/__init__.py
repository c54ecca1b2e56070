"""The loops of the four stages: what is measured, batch by batch, and what is made of it."""

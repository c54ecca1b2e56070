"""Output for people: text, tables, figures."""

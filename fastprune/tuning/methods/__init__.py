"""The ways of tuning: each file is one, by its name, and holds a ``TUNING``."""

"""The ways of selection: each file is one, by its name, and holds a ``SELECTION``."""

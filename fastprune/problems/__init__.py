"""The problems: each file is one, by its name, and holds a ``PROBLEM``."""

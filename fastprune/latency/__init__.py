"""Latency: look-up tables, how they are measured, and the search for the best masks within one (paper, section 3.1)."""

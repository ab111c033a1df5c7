"""Which heads and filters a budget buys (paper, sections 3.2 and 3.3)."""

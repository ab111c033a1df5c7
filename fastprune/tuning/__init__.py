"""Making up for what was cut (paper, section 3.4)."""

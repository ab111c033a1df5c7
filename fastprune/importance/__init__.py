"""What every head and filter is worth (paper, section 3.2)."""

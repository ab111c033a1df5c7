"""HTML reports of a compression and of a sweep."""

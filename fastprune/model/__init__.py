"""The model: where its heads and filters are, masks on them, cutting them out, reading and saving."""

"""Where artifacts lie: folders and S3, each with the digests that prove it."""

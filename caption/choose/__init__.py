"""Choose: which captions are worth keeping, by a condition or as the best of their image; see README.md."""

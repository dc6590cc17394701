"""Report: what is in an output folder, on one page that opens from disk; see README.md for what stands on it."""

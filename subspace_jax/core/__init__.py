"""Mathematics on arrays and functions: no framework, no data, no files."""

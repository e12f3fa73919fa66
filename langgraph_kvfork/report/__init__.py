"""Reports of what a run computed and what it shared."""

"""A run folder as one page for a browser: runs (what it holds), measures, plots, page."""

"""Run a profile's notebooks, download its images, compare runs: the command line and what it calls."""

"""A run, or two, as one HTML page: its figures, plots and films."""

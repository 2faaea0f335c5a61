"""What the dashboards are made of: `python -m dashboards.generate` writes the JSON beside it. It is not installed."""

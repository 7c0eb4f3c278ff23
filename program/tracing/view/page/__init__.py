"""The trace page: one HTML file with its style and script."""

"""Shows traces in the terminal and on one HTML page."""

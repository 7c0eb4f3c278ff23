"""One declaration per task."""

"""Where spans go: to Weave's wire API, to a local database, to the terminal and to one HTML page."""

"""Traces for people: in the terminal and on one HTML page."""

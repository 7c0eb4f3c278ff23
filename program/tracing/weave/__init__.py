"""Writes spans as Weave calls. Only this package uses Weave's client."""

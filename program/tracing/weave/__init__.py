"""Spans become Weave calls: the client side. Only this package imports weave."""

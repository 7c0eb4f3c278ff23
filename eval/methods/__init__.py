"""Evaluation methods, one file each."""

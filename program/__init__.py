"""The agent of one user: everything needed to answer."""

"""Commands about one user: import, ask, observe, look at the persona."""

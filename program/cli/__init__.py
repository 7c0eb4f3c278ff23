"""Commands for users and personas: import, list, ask, observe, show, roll back."""

"""Memory of one user: past interactions (episodic) and a profile (semantic)."""

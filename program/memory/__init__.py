"""What happened and who this is."""

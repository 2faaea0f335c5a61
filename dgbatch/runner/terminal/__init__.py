"""What a person sees of a run at work, and what is kept of it for those who watch from elsewhere."""

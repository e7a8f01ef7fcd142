"""Pictures, and pictures with captions."""

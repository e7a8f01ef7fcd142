"""Model → Lake: answers requests, and appends the events it causes."""

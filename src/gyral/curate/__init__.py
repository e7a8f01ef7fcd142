"""Lake → Dataset: what is kept, and why the rest is not."""

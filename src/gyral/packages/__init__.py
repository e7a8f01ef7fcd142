"""Published packages as places to read from: fetched by the user's own package manager, read and never run."""

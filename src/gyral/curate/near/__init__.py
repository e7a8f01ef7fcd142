"""Near-duplicates: found by MinHash, verified before anything is removed."""

"""Parameters too many or too fast for one process: collision-free tables, their shards, and the log of what changed."""

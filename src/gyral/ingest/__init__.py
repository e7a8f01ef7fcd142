"""Source → Lake: events come in through the log, and one drain commits them."""

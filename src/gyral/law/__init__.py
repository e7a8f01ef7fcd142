"""What the next budget buys: laws through runs that were made, how sure they are, and predictions of runs that were not."""

"""What a plan costs and holds: counted, measured and simulated figures, each with where it is from."""

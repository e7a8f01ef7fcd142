"""What a loop goes through: a source cut into slices that are shown one after the other, and how each is asked about
beforehand."""

"""Weights of nets in few bits: how they lie in a file, how a machine multiplies with them, how they are found."""

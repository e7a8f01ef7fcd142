"""Retrieval: the vectors of a catalogue that a query meets best, exactly or to a stated recall, while the catalogue changes."""

"""Model → Model: smaller, with the loss of quality measured."""

"""gyral closes the loop of internet-scale machine learning: events in, models out, and what people do next comes back."""

__version__ = "0.1.0"

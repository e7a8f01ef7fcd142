"""Dataset → Model: candidates compete, the best is fitted on everything."""

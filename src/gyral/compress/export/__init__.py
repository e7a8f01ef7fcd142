"""Model → a folder that other programs read, compared with the model before anybody sees it."""

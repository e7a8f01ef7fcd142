"""A plug-in of gyral: a source, a curate step, a family and a page."""

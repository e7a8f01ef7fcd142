"""A recommender that learns while it is asked: what it knows of visits, its tables, and how it answers from a replica."""

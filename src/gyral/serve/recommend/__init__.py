"""From candidates to an answer: sources, ranking, rules, diversity, exploration and reasons."""

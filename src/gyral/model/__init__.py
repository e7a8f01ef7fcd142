"""What learns, how it is asked, and how good its answers are."""

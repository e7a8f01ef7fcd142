"""What a task can be taught, one lesson a task: behind the hook `lesson`, by `FAMILY/TASK`."""

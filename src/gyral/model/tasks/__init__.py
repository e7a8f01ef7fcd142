"""What models are asked to learn: one module a task, each the objective of one family on one kind of data."""

"""What a text is like: signals by kernels over its bytes."""

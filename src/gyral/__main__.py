"""`python -m gyral`: the same as the command `gyral`."""

from gyral.cli import main

main()

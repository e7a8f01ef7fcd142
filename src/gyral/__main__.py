"""The command `gyral`, also as `python -m gyral`: a Ctrl-C while the rest is imported is an interrupt, not a trace."""

import sys


def main() -> None:
    """Run the command line and exit."""
    try:
        from gyral.cli import main as run
    except KeyboardInterrupt:
        sys.exit("error: interrupted before anything was done")
    run()


if __name__ == "__main__":
    main()

"""`python -m datadiet` is the same as `datadiet`."""

from datadiet.cli import entry

if __name__ == "__main__":
    entry()

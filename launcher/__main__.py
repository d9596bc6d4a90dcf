"""`python -m launcher`, and the `launcher` command."""

from __future__ import annotations

from launcher.cli.app import main

__all__ = ["main"]

if __name__ == "__main__":
    main()

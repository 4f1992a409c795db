"""``python -m annolab_async.cli``: the command line where its script is not on the path."""

from __future__ import annotations

from annolab_async.cli import main

if __name__ == "__main__":
    main()

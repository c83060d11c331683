"""``python -m harness.cli``, as earlier versions printed the command, is the command ``joulebench``."""

from harness.cli import main

if __name__ == "__main__":
    main()

"""Regenerate the figures and headline numbers of Wilkins, Keshav and Mortier (2024).

Usage: python scripts/reproduce_paper.py -o DIR, the same as joulebench paper -o DIR.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import cli

sys.argv[1:1] = ["paper"]
cli.main()

"""Regenerate the figures and headline numbers of Wilkins, Keshav and Mortier (2024).

Usage: python scripts/reproduce_paper.py -o DIR, the same as joulebench paper -o DIR.
"""

import sys

from harness import cli

sys.argv[1:1] = ["paper"]
cli.main()

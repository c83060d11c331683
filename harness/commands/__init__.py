"""The commands of ``joulebench``, one file each. Imported at every start: heavy imports stay inside functions."""

"""joulebench: plan, measure, record, fit, decide, draw."""

__version__ = "0.1.0"

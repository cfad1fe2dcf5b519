"""rotator replaces Neon API keys on a schedule, without anyone noticing."""

__version__ = "0.1.0"

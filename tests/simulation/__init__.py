"""Months of simulated life for the real core and engine; see docs/simulation.md."""

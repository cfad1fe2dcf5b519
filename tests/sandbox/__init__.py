"""Tests of the local Neon."""

"""Tests, a folder a component."""

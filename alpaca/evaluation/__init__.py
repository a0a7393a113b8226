"""Judging data and models, a module a task."""

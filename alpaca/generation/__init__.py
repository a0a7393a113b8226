"""Instruction data: from a teacher's replies to clean rows."""

"""Stress-tests a Triton server with 4K work, and tells the truth about it."""

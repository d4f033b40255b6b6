"""Generates the load: users, the frames they send, the check of the answers, and load shapes."""

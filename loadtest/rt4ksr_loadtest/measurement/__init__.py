"""Counts requests and latencies, watches the server, and sums both up as a result."""

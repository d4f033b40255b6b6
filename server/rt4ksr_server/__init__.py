"""Runs a real tritonserver, from the ``nvidia-pytriton`` wheel where there is no other."""

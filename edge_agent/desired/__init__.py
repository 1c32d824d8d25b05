"""Desired configuration: what the cloud wants otherwise is tried, and kept once it has proved itself."""

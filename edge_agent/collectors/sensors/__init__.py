"""Sensors that the kernel shows as files under /sys, one module for each of its interfaces, and the battery."""

"""The `worker` role: what devices say of themselves, which are there, partitions ahead of time, and retention."""

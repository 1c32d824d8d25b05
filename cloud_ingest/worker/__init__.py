"""The `worker` role: what devices say of themselves, partitions ahead of time, and retention."""

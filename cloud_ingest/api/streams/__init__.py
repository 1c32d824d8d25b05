"""Server-sent events: what happens, as it happens, and exactly from where a client left off.

`follower` reads one feed for all clients of the process, `event_stream` writes to one of them, `streams` holds both
feeds together and ends them.
"""

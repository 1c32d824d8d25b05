"""Rollups: what a series did in 5 minutes, an hour, a day, always as if made anew from all samples ever received.

Each sample is stored in exactly one table: that of the finest tier still held at its time. The buckets of a coarser
tier are made from the tier before it as long as that is held. Below that they are sealed: what comes late is added to
them, never made anew. Two things say where this changes (`state`):

- the floor of each tier: below it, the tier is gone and late samples go into the next one;
- the watermark: readings below it have been rolled up, or are being, so that a late one has to leave a mark.

Ingest reads them holding a lock that many may share, and the worker moves them holding it alone, for the moment that
this takes. So whoever commits readings under an old watermark has committed before the new one counts. All the
worker's own work is steps of one transaction, each of which can die at any point and be done again (`work`).
"""

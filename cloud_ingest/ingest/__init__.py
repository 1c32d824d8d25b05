"""The `ingest` role: from the broker into the database, and the commit acks back.

source -> decode -> batch -> store.batch (one transaction) -> PUBACK and commit acks
"""

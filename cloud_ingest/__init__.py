"""The cloud: ingest, API and worker over one database. Its parts meet in `store` alone."""

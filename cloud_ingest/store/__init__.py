"""All SQL of the cloud, and nothing else: callers see names, structs and the errors of `cloud_ingest.errors`."""

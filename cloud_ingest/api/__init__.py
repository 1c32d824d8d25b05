"""The role `api`: REST, live page, health and metrics."""

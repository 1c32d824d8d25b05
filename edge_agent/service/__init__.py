"""The agent as a service of the system: its unit, its user, its directories, and what puts them in place.

The unit and the sample configuration are those of `deploy/`, by symbolic links that a wheel resolves.
"""

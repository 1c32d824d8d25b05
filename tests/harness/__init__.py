"""Real servers and processes for the tests: mosquitto, PostgreSQL with and without TimescaleDB, our own programs.

Each can be started, stopped, killed with SIGKILL and started again on the same port and data.
"""

"""The whole system on one machine: `telemetry-bridge up`.

It starts the edge agent, the cloud roles and the servers they need as processes of their own and looks after them. It
knows the other two programs by their command lines, environment variables and HTTP answers only.
"""

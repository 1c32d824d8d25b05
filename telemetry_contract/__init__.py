"""The wire contract `telemetry/v1`: topics, payloads, codec and metric catalogue.

Data only. Both ends and third parties may import it; it holds no client code and imports nothing of ours.
"""

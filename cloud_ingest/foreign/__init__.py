"""What publishers other than our agents send: how it is understood, whichever way it came.

message -> interpretation (readings, problems) -> blocks for `store.batch`
"""

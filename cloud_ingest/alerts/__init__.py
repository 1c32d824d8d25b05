"""When a value is worth telling somebody: rules, the machine that judges samples by them, and history.

Pure: nothing here knows a database, a socket or a clock. Times are milliseconds since the epoch, by the device's clock.
`docs/alerts.md` explains the same to operators.
"""

"""The containers of this host, whatever engine runs them: from the kernel's control groups, named by their engines.

`collector` puts together what the other modules find: `places` (where containers are among the control groups),
`version1` and `version2` (what the files of a group say, as a `usage`), `engines` and `pod_logs` (what people call a
container), `names` (asking them, rarely) and `labels` (how its series are told apart).
"""

"""What `groundcrew doctor` looks at: one function a check, each takes a Patient and returns a Check.

Called by: groundcrew.doctor, which holds their order. Must not import: torch, mmdet (worker.detectors does, when used).
Nothing here changes anything: no project, webhook or job is made, and no token is ever part of a message.
Example: `check_redis(Patient(read_settings())).status == "ok"`
"""

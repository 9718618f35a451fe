"""What the API and the workers agree on: errors, settings, labels, jobs, the broker, job records, model versions.

Called by: backend, worker, groundcrew. Must not import: flask, torch, numpy, mmdet, label_studio_sdk.
A file belongs here only if both sides break when it changes.
Example: `from contract.jobs import PredictJob`
"""

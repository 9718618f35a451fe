"""Starts a real Label Studio and drives it from outside, for the demo, the tests and `groundcrew doctor`.

Called by: groundcrew/demo.py and tests/services.
Must not import: backend, worker. The server runs in a virtual environment of its own, its package is never imported.
Example: see server.py (start and stop one) and client.py (projects, images, predictions).
"""

#: The release everything here was written for and is tested with.
LABEL_STUDIO_VERSION = "1.23.2"

"""Connects a project to a backend, as step 4 of the quickstart does by hand: for shell scripts of tests.

Called by: tests/services/test_docs.py, as `python -m tests.services.connect URL TOKEN PROJECT BACKEND_URL`.
Must not import: backend, worker.
"""

import sys

from groundcrew.label_studio.client import LabelStudioClient

if __name__ == "__main__":
    url, token, project, backend_url = sys.argv[1:]
    client = LabelStudioClient(url, token)
    for backend in client.backends(int(project)):
        client.disconnect_backend(backend.id)
    made = client.connect_backend(int(project), backend_url, title="Groundcrew")
    print(f"project {project}: {made.state}, {made.model_version}")
    sys.exit(made.state != "CO")

"""`groundcrew demo`: a real Label Studio whose images get their boxes from real workers, checked against known boxes.

Called by: groundcrew/cli.py.
Must not import: backend, worker (they run as `groundcrew up`, in processes of their own).
Example: exit_code = run_demo(once=True, out_dir=Path("demo/out"))
"""

from groundcrew.demo.run import run_demo

__all__ = ["run_demo"]

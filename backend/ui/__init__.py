"""The status page: what is read for it, its words in two languages, its pictures, and what keeps its buttons safe.

Called by: backend.pages. Must not import: worker, Celery.
"""

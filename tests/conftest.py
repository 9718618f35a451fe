"""What every test has: made-up examples are the same in each run, and no example fails because a machine is busy.

Called by: pytest. Must not import: anything of ours.
Example: `@given(st.integers())` above a test of any folder, without settings
"""

from hypothesis import settings

# As Hypothesis itself does where CI is set: a run that fails can be repeated, and one that passed passes again.
settings.register_profile("groundcrew", derandomize=True, deadline=None, database=None)
settings.load_profile("groundcrew")

"""Settings of all tests."""

from hypothesis import settings

# How long a draw takes says nothing on machines that are shared.
settings.register_profile("datadiet", deadline=None)
settings.load_profile("datadiet")

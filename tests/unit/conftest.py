"""Property tests judge what is true, never how fast it was found."""

from hypothesis import HealthCheck, settings

settings.register_profile("taskq", deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("taskq")

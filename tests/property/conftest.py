"""Property tests run on busy machines: neither a slow draw nor a slow example is a failure."""

from hypothesis import HealthCheck, settings

settings.register_profile("unlatch", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unlatch")

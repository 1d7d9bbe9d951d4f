from hypothesis import settings

settings.register_profile("modest", deadline=None, max_examples=100)
settings.load_profile("modest")

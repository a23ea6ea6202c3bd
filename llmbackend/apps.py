from django.apps import AppConfig

from llmbackend.spared import spare

# The first of INSTALLED_APPS: what is spared is not imported yet.
spare()


class LLMBackendConfig(AppConfig):
    name = "llmbackend"

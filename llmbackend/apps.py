from django.apps import AppConfig


class LLMBackendConfig(AppConfig):
    name = "llmbackend"

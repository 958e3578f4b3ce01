"""The shop on Django: a project in one module, for ASGI and for WSGI."""

import os
from importlib import import_module
from typing import Any

from taskq.asgi import TaskqMiddleware
from taskq.threaded import WorkerThread
from tests.embedding.shop import jobs, lifespan, place, places, where

# Django has no types.
settings: Any = import_module("django.conf").settings
urls: Any = import_module("django.urls")
http: Any = import_module("django.http")


async def home(_: object) -> Any:
    return http.HttpResponse(await places())


def home_sync(_: object) -> Any:
    job = where.defer_sync()
    return http.HttpResponse(f"{place()} {job.result_sync(30)}")


def readyz(_: object) -> Any:
    trouble = worker.trouble()
    return http.HttpResponse(trouble or "ok", status=503 if trouble else 200)


settings.configure(
    ROOT_URLCONF=(urls.path("", home), urls.path("sync", home_sync), urls.path("readyz", readyz)),
    ALLOWED_HOSTS=["*"],
    SECRET_KEY="not secret",  # noqa: S106
    LOGGING_CONFIG=None,
)

if "gunicorn" in os.environ.get("SERVER_SOFTWARE", ""):
    wsgi = import_module("django.core.wsgi").get_wsgi_application()
    worker = WorkerThread(jobs)
else:
    web = TaskqMiddleware(import_module("django.core.asgi").get_asgi_application(), lifespan, readyz="/readyz")

"""Settings to storage: what handlers of a process may read and write."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import urlsplit

from app.settings import OrchestrationMode, Settings
from infrastructure.storage.handler_storage import StorageSpec
from services.raster import sample_raster


def storage_spec(settings: Settings, *, local: bool | None = None) -> StorageSpec:
    """What the settings open.

    Where all work comes from this machine (``in_memory`` mode on a loopback address) local files are open unless
    directories are named. Elsewhere callers name paths over a network: only the worker's own directories are open.
    ``local`` says so itself, for a command that its caller's own eyes are on.
    """
    if local is None:
        in_memory = settings.docker_orchestration_mode is OrchestrationMode.IN_MEMORY
        local = in_memory and not settings.listens_beyond_loopback
    own: tuple[str, ...] = (str(settings.data_dir.expanduser().resolve()),)
    if settings.etl_mount is not None:
        own = (*own, str(settings.etl_mount.expanduser().resolve()))
    sources, outputs = settings.source_allowed_roots, settings.output_allowed_roots
    key = settings.blob_account_key
    return StorageSpec(
        source_roots=None if local and not sources else (*sources, *own, str(sample_raster().parent)),
        output_roots=None if local and not outputs else (*outputs, *own),
        allowed_hosts=settings.source_allowed_hosts,
        allow_private=settings.allow_private_addresses,
        ca_bundle=None if settings.source_ca_bundle is None else str(settings.source_ca_bundle),
        max_source_mb=settings.source_max_mb,
        min_free_mb=settings.min_free_disk_mb,
        sas_urls=tuple(url.get_secret_value() for url in settings.source_sas_urls),
        blob_account_url=settings.blob_account_url,
        blob_account_key=None if key is None else key.get_secret_value(),
    )


def trial_storage(settings: Settings, signed_urls: tuple[str, ...]) -> StorageSpec:
    """What one test execution may read: the same places, with none of this process's own credentials.

    ``signed_urls`` are those that came with it.
    """
    spec = storage_spec(settings)
    hosts = spec.allowed_hosts
    if spec.blob_account_url is not None:
        hosts = (*hosts, urlsplit(spec.blob_account_url).hostname or "")
    return replace(
        spec, allowed_hosts=hosts, blob_account_url=None, blob_account_key=None, sas_urls=(), lent_urls=signed_urls
    )

"""How a bucket is reached: endpoints and credentials of the environment, and nothing else. With store.py, the home of
obstore.
"""

from __future__ import annotations

import importlib.util
import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgbatch.errors import LocationError

if TYPE_CHECKING:
    from dgbatch.runner.storage.store_uri import StoreUri

REQUEST_S = 60.0  # for one answer to come
CONNECT_S = 5.0
ENVIRONMENT = ("AWS_", "GOOGLE_", "AZURE_", "STORAGE_EMULATOR_HOST")


def connect(uri: StoreUri, retries: dict[str, Any]) -> Any:
    """obstore's own store of this bucket; asks nobody yet. Raises LocationError for an environment that cannot be."""
    from obstore.store import AzureStore, GCSStore, S3Store

    endpoints = {
        "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
        "gs": ("GOOGLE_BASE_URL", "STORAGE_EMULATOR_HOST"),
        "azure": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
    }[uri.kind]
    endpoint = next((os.environ[name] for name in endpoints if os.environ.get(name)), "")
    common: dict[str, Any] = {
        "client_options": {
            "timeout": timedelta(seconds=REQUEST_S),
            "connect_timeout": timedelta(seconds=CONNECT_S),
            "allow_http": not endpoint.startswith("https://") and bool(endpoint),
        },
        "retry_config": retries,
    }
    try:
        if uri.kind == "s3":
            return S3Store(uri.bucket, **_profile(uri), **common)
        if uri.kind == "gs":
            return GCSStore(uri.bucket, **_emulator(endpoint), **common)
        account: dict[str, Any] = {"account_name": uri.account} if uri.account else {}
        return AzureStore(uri.bucket, **account, **common)
    except (exceptions().BaseError, ValueError):
        raise _unusable(uri) from None


def shown_bucket(uri: StoreUri) -> str:
    """As people would write it."""
    if uri.kind != "azure":
        return f"{uri.kind}://{uri.bucket}"
    return f"abfs://{uri.bucket}@{uri.account}" if uri.account else f"az://{uri.bucket}"


def _unusable(uri: StoreUri) -> LocationError:
    names = dict(zip(("s3", "gs", "azure"), ENVIRONMENT, strict=False))
    return LocationError(
        f"{shown_bucket(uri)}: the environment does not say how to reach it, or says it wrongly. Look at the variables "
        f"{names[uri.kind]}...; docs/object_stores.md lists them."
    )


def _profile(uri: StoreUri) -> dict[str, Any]:
    """Credentials of ~/.aws, which obstore does not read itself; boto3 does."""
    if os.environ.get("AWS_ACCESS_KEY_ID") or os.environ.get("AWS_SKIP_SIGNATURE"):
        return {}
    files = (os.environ.get(name) for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"))
    has_files = any(files) or any(Path(path).expanduser().exists() for path in ("~/.aws/credentials", "~/.aws/config"))
    if not (os.environ.get("AWS_PROFILE") or has_files) or importlib.util.find_spec("boto3") is None:
        return {}
    from botocore.exceptions import BotoCoreError
    from obstore.auth.boto3 import Boto3CredentialProvider

    try:
        return {"credential_provider": Boto3CredentialProvider()}
    except BotoCoreError as error:  # a profile that is not there, a file that cannot be read
        raise LocationError(
            f"{shown_bucket(uri)}: ~/.aws cannot be used: {error}. Mend it, or set AWS_PROFILE."
        ) from None


def _emulator(endpoint: str) -> dict[str, Any]:
    """An emulator of GCS asks for no credentials."""
    if not os.environ.get("STORAGE_EMULATOR_HOST") or os.environ.get("GOOGLE_BASE_URL"):
        return {}
    url = endpoint if "://" in endpoint else f"http://{endpoint}"
    nobody = '"disable_oauth": true, "client_email": "", "private_key": "", "private_key_id": ""'
    return {"service_account_key": f'{{"gcs_base_url": "{url}", {nobody}}}'}


def exceptions() -> Any:
    """Those of obstore, which takes a moment to import."""
    from obstore import exceptions as found

    return found

"""Makes blob containers that are not there yet: ``make_containers.py NAME...``, in the account of BLOB_ACCOUNT_URL."""

import os
import sys
from urllib.parse import urlsplit

from azure.core.exceptions import ResourceExistsError
from azure.storage.blob import BlobServiceClient


def main(names: list[str]) -> None:
    """Make each container."""
    url, key = os.environ["BLOB_ACCOUNT_URL"], os.environ["BLOB_ACCOUNT_KEY"]
    account = urlsplit(url).path.strip("/")
    credential = {"account_name": account, "account_key": key}
    with BlobServiceClient(url, credential=credential, retry_total=3) as client:
        for name in names:
            try:
                client.create_container(name)
                print(f"made {name}")
            except ResourceExistsError:
                print(f"{name} is there")


if __name__ == "__main__":
    main(sys.argv[1:])

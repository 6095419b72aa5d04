"""Files elsewhere: HTTP and Blob Storage behind the port in :mod:`core.storage`."""

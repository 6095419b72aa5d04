"""The HTTP application: Starlette routes over the composed parts."""

"""The dashboard: server-rendered pages, live by server-sent events, with no request to any other host."""

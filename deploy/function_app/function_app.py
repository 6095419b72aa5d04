"""What the Functions host indexes: the app built from the environment."""

from app.function_app import build
from app.settings import Settings

app = build(Settings.from_env())

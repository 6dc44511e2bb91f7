"""Reads ``serve_config.yaml``: Serve's own format, of which Holdfast's application and its settings are a part.

Not here: what the settings mean (``serving.settings``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from serving.cluster import StartError
from serving.plain_yaml import NotPlain, read_yaml
from serving.settings import Settings, SettingsError, absolute, parse_settings

IMPORT_PATH = "serving.app:build"


def read_settings(path: Path) -> Settings:
    """The settings of the Holdfast application in a Serve configuration file, folders taken from where we are.

    Raises ``StartError`` with one line that names the file and the key.
    """
    try:
        document = read_yaml(path.read_text())
    except OSError as error:
        raise StartError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise StartError(f"{path}: not a text file: {error}") from None
    except yaml.YAMLError as error:
        raise StartError(f"{path}: no YAML: {' '.join(str(error).split())}") from None
    except NotPlain as error:
        raise StartError(f"{path}: {error}") from None
    try:
        return absolute(parse_settings(_arguments(document)), Path.cwd())
    except SettingsError as error:
        raise StartError(f"{path}: {error}") from None


def _arguments(document: Any) -> Any:
    if not isinstance(document, dict) or not isinstance(document.get("applications"), list):
        raise SettingsError("applications: a Serve configuration needs this list")
    ours = [
        application
        for application in document["applications"]
        if isinstance(application, dict) and application.get("import_path") == IMPORT_PATH
    ]
    if len(ours) != 1:
        raise SettingsError(f"applications: {len(ours)} of them have import_path {IMPORT_PATH}; there must be one")
    return ours[0].get("args")

"""Everything that can be wrong with a model version, from its name to its first answer.

Not here: what can go wrong with one request (``serving.errors``); wire codes.
"""

from __future__ import annotations


class ModelError(Exception):
    """Base of everything that ``models`` raises on purpose. The text is meant for a person."""


class InvalidName(ModelError):
    """A model or version name that isn't ``[a-z0-9][a-z0-9._-]*``."""


class VersionNotFound(ModelError):
    """The registry has no such version."""


class VersionExists(ModelError):
    """The name is taken by other bytes; versions are immutable."""


class InvalidManifest(ModelError):
    """A manifest that can't be read, or that says something impossible."""


class InvalidSignature(ModelError):
    """A signature that contradicts itself, or an artifact whose inputs can't be expressed."""


class ArtifactCorrupt(ModelError):
    """A file's bytes aren't those that were published. Names the file and both digests."""


class InvalidArtifact(ModelError):
    """A file that can't be read as what its suffix says, or that holds what is never loaded, such as a pickle."""


class InvalidGolden(ModelError):
    """Golden examples that can't be read, or that don't fit the model's signature."""


class IncompatibleRuntime(ModelError):
    """This machine's runtime can't run the artifact."""


class GoldenMismatch(ModelError):
    """The loaded model doesn't give the answer that its golden example promises."""


class InferenceFailed(ModelError):
    """The model raised while it computed an answer."""
